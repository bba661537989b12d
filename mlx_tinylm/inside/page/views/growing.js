// Growing up: the loss curve of runs, live, and the same prompt at snapshots of one of them.

import { make, picture, tools } from "../canvas.js";
import { drawCurve, smoothed, thinned } from "../curve.js";
import { domPicture } from "../dom_picture.js";
import { snapshots } from "../history.js";
import { chosenPosition, kept } from "../kept.js";
import { follow, metrics } from "../live_metrics.js";
import { BIT, bits, grouped, largest, mean, percent, softmax } from "../numbers.js";
import { pairedBars } from "../paired_bars.js";
import { SURPRISE, TOP, scaleBar, sequential } from "../scale.js";
import { glyph, spoken, textData } from "../text_data.js";

export const title = "Growing up";
export const promise = "how training made it so";
export const codeId = "growing";
export const above = "The loss is the mean surprise at the next character: training lowers it step by step. Snapshots of the weights show what the same prompt led to on the way.";
export const below = "A lower loss is a better guess at the next character of this text, nothing more. The dashed lines are what guessing and counting reach; a snapshot's sample is one of many that it could write.";

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

export const render = kept(build);

function build(app) {
  let runs = null; // [{name, steps}] as the model's facts say
  let curves = []; // one of live_metrics a run
  let shown = new Set();
  let chosen = null;
  let step = null;
  let log = true;
  let polling = false;
  let problem = "";
  const past = snapshots(app.api, () => showSnapshot());
  const state = make("p", { class: "reading", role: "status" });
  const legend = make("div", { class: "controls runs", role: "group", "aria-label": "Runs in the chart" });
  const axis = make("input", { type: "checkbox", id: "log-axis", checked: true });
  const curve = picture({
    name: "loss curve",
    label: () => `Loss against the step. ${curves.filter((one) => shown.has(one.run)).map(spokenCurve).join(" ")}`,
    height: (width) => (width < 520 ? 300 : 380),
    draw: (canvas) => drawCurve(canvas, model(canvas.ink)),
    table: () => [["run", "step", "training (smoothed)", "validation"], curveRows()],
    json: () => curves.filter((one) => shown.has(one.run)).map(({ run, training, validations, baselines }) => ({ run, training: thinned(training), validations, baselines })),
  });
  const choice = make("select", { id: "history-run" });
  const slider = make("input", { type: "range", id: "snapshot", min: "0", step: "1", value: "0" });
  const marks = make("div", { class: "slider-marks", "aria-hidden": "true" });
  const stepName = make("output", { htmlFor: "snapshot", class: "step-name" });
  const progress = make("p", { class: "note", role: "status" });
  const text = textData({ label: "The prompt at this snapshot, by surprise", onSelect: (position) => app.set({ position }) });
  const loss = make("p", { class: "reading" });
  const next = make("h4");
  const bars = pairedBars({ label: "What comes next at this snapshot and at the last", barName: "then", tickName: "at the end" });
  const sample = make("pre", { class: "sample", tabIndex: 0, role: "region", "aria-label": "what this snapshot writes" });
  const same = make("div", {}, text.element, loss,
    make("div", { class: "scales" }, scaleBar(SURPRISE)),
    make("div", { class: "pair" },
      make("section", {}, next, bars.element),
      make("section", {}, make("h4", { textContent: "What it writes after the prompt" }), sample)));
  const snapshotPart = make("section", { class: "snapshots" },
    make("h3", { textContent: "The same prompt along the way" }),
    make("div", { class: "controls" }, make("label", { htmlFor: "history-run", textContent: "Run" }), choice),
    make("div", { class: "slider" }, make("label", { htmlFor: "snapshot", textContent: "Snapshot after step" }), stepName, make("div", { class: "slider-body" }, slider, marks)), progress,
    same,
    tools({ name: "snapshots", picture: () => domPicture(same),
      table: () => [["step", "loss of the prompt", "next", "sample"], steps().map((one) => row(one))],
      json: () => ({ run: chosen, snapshots: steps().filter((one) => past.of.get(one)).map((one) => ({ step: one, surprise: [...past.of.get(one).surprise].map((value) => (Number.isFinite(value) ? value : null)), sample: past.of.get(one).sample })) }) }).element);
  const none = make("p", { class: "nothing", hidden: true });
  const chart = make("section", {}, make("div", { class: "controls" }, legend, make("label", { class: "check" }, axis, " log axis")), state, curve.element);
  const element = make("div", { class: "view-growing" }, none, chart, snapshotPart);

  axis.addEventListener("change", () => {
    log = axis.checked;
    curve.redraw();
  });
  choice.addEventListener("change", () => {
    chosen = choice.value;
    step = null;
    renewSlider();
    update(app);
  });
  slider.addEventListener("input", () => {
    step = steps()[Number(slider.value)];
    showSnapshot();
    curve.redraw();
  });

  const steps = () => runs?.find((one) => one.name === chosen)?.steps ?? [];

  function update(given) {
    app = given;
    if (runs === null) {
      runs = [];
      begin();
      return;
    }
    if (app.data?.ids.length && steps().length) {
      past.want({ run: chosen, steps: [...steps()].sort((a, b) => Math.abs(steps().indexOf(a) - at()) - Math.abs(steps().indexOf(b) - at())),
        ids: app.data.ids, text: app.data.meta.prompt, settings: app.state.settings, seed: app.state.seed });
    }
    showSnapshot();
    curve.redraw();
    if (!polling && curves.length) poll();
  }

  async function begin() {
    try {
      renewRuns((await app.api.model()).runs ?? []);
    } catch (error) {
      none.hidden = false;
      none.textContent = error.message;
      return;
    }
    update(app);
  }

  function renewRuns(found) {
    runs = found;
    const old = new Map(curves.map((one) => [one.run, one]));
    curves = runs.map(({ name }) => old.get(name) ?? metrics(name));
    if (!old.size) shown = new Set(runs.slice(0, 6).map(({ name }) => name));
    chosen ??= (runs.find((one) => one.steps?.length) ?? runs[0])?.name ?? null;
    none.hidden = runs.length > 0;
    none.textContent = "This folder holds a finished model without its run: no metrics.jsonl, no snapshots. Train one, and look while it grows: mlx-tinylm train, and in a second window mlx-tinylm play with the folder that it names first.";
    chart.hidden = !runs.length;
    snapshotPart.hidden = !runs.some((one) => one.steps?.length);
    legend.replaceChildren(...(runs.length < 2 ? [] : runs.map(({ name }, i) => {
      const box = make("input", { type: "checkbox", checked: shown.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) shown.add(name);
        else shown.delete(name);
        curve.redraw();
      });
      return make("label", { class: `check run run-${i % 4}` }, box, ` ${name}`);
    })));
    choice.replaceChildren(...runs.filter((one) => one.steps?.length).map(({ name }) => make("option", { value: name, textContent: name })));
    choice.value = chosen ?? "";
    choice.parentElement.hidden = choice.options.length < 2;
    renewSlider();
  }

  const at = () => Math.max(0, steps().indexOf(step));

  function renewSlider() {
    const all = steps();
    if (!all.includes(step)) step = all.at(-1) ?? null;
    slider.max = String(Math.max(all.length - 1, 0));
    slider.value = String(at());
    marks.replaceChildren(...all.map((one, i) => {
      const mark = make("span", { textContent: short(one) });
      mark.style.left = `${all.length > 1 ? (100 * i) / (all.length - 1) : 0}%`;
      return mark;
    }));
  }

  function poll() {
    polling = true;
    const wanted = () => element.isConnected && app.state.view !== undefined && element.offsetParent !== null && !document.hidden;
    follow(app.api, () => curves.filter((one) => shown.has(one.run)), wanted, async (error) => {
      problem = error ? error.message : "";
      curve.redraw();
      say();
      const one = curves.find(({ run }) => run === chosen);
      if (one && wanted()) await newSnapshots(one);
    }).finally(() => {
      polling = false;
    });
    say();
  }

  // A run that trains makes snapshots on the way, ever fewer: they are looked for when it has gone on by a tenth, and in the end.
  let looked = { step: 0, live: false };
  async function newSnapshots(one) {
    const last = one.training.at(-1)?.[0] ?? 0;
    if (one.live === looked.live && last >= looked.step && last < 1.1 * looked.step) return;
    looked = { step: last, live: one.live };
    const known = String(steps());
    const found = (await app.api.model({ renewed: true })).runs ?? [];
    if (String(found.find(({ name }) => name === chosen)?.steps ?? []) !== known) {
      const followLast = step === steps().at(-1);
      if (followLast) step = null;
      renewRuns(found);
      update(app);
    }
  }

  document.addEventListener("visibilitychange", () => !document.hidden && !polling && element.isConnected && curves.length && poll());

  function model(ink) {
    const some = curves.filter((one) => shown.has(one.run));
    const base = some.find((one) => one.baselines)?.baselines;
    const colours = [ink.model, ink.chosen, ink.text, ink.muted];
    return {
      log, unit: "loss in nats", mark: snapshotPart.hidden ? null : step,
      references: base ? [{ label: "guessing", value: base.guessing }, ...base.ngrams.map((value, i) => ({ label: `${i + 1}-gram`, value }))] : guessing(),
      series: some.map((one) => {
        const place = curves.indexOf(one);
        return { name: one.run, end: one.run, colour: colours[place % 4], dash: DASHES[Math.floor(place / 4) % DASHES.length],
          raw: some.length > 3 ? [] : thinned(one.training), smooth: thinned(smoothed(one.training)), points: one.validations };
      }),
    };
  }

  const guessing = () => (app.data ? [{ label: "guessing", value: Math.log(app.data.meta.vocabulary.length) }] : []);

  function curveRows() {
    return curves.filter((one) => shown.has(one.run)).flatMap((one) => {
      const smooth = smoothed(one.training);
      const every = Math.max(1, Math.ceil(smooth.length / 40));
      const validations = new Map(one.validations);
      const kept = new Map(smooth.filter(([at], i) => i % every === 0 || validations.has(at)));
      return [...new Set([...kept.keys(), ...validations.keys()])].sort((a, b) => a - b)
        .map((at) => [one.run, grouped(at), kept.get(at)?.toFixed(3) ?? "–", validations.get(at)?.toFixed(4) ?? "–"]);
    });
  }

  function spokenCurve(one) {
    const last = one.training.at(-1);
    const best = one.validations.reduce((low, point) => (point[1] < low[1] ? point : low), [0, Infinity]);
    return `${one.run}: ${last ? `${grouped(last[0])} steps` : "no steps yet"}${Number.isFinite(best[1]) ? `, lowest validation loss ${best[1].toFixed(4)} nats (${bits(best[1])}) at step ${grouped(best[0])}` : ""}.`;
  }

  function say() {
    const some = curves.filter((one) => shown.has(one.run));
    const living = some.filter((one) => one.live).map((one) => one.run);
    state.textContent = [problem, ...some.slice(0, 3).map(spokenCurve), living.length ? `${living.join(", ")} trains now: the curve follows.` : ""].filter(Boolean).join(" ");
  }

  const lossOf = (snapshot) => mean(snapshot.surprise);

  // All that follows the slider: no request, nothing that waits.
  function showSnapshot() {
    if (!app.data?.ids.length || step === null) return;
    const { vocabulary } = app.data.meta;
    const size = vocabulary.length;
    const snapshot = past.of.get(step);
    const have = steps().filter((one) => past.of.get(one)?.sample !== null && past.of.get(one)).length;
    progress.textContent = past.failed || (have < steps().length ? `The samples of ${have} of ${steps().length} snapshots are here.` : "");
    stepName.textContent = grouped(step);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    const i = chosenPosition(app);
    next.textContent = `What comes after ${spoken(vocabulary[app.data.ids[i]])}`;
    text.update({ tokens: Array.from(app.data.ids, (id) => vocabulary[id]), selected: i, colour: sequential,
      values: Array.from(app.data.ids, (_, place) => (snapshot && place ? snapshot.surprise[place] / BIT / TOP : null)),
      describe: (place) => [`${spoken(vocabulary[app.data.ids[place]])} at ${place}`, snapshot && place ? `surprise ${bits(snapshot.surprise[place])} after step ${grouped(step)}` : "the first has no surprise"] });
    const end = past.of.get(steps().at(-1));
    const then = snapshot ? softmax(snapshot.logits, size, i) : null;
    const ticks = end ? softmax(end.logits, size, i) : null;
    bars.update({ tokens: vocabulary, order: largest(ticks ?? then ?? new Float64Array(size), size), bars: then, ticks });
    loss.textContent = snapshot ? `Loss of this prompt after step ${grouped(step)}: ${bits(lossOf(snapshot))} a ${app.unit}${end && end !== snapshot ? `; at the end ${bits(lossOf(end))}` : ""}.` : "Not here yet.";
    sample.textContent = snapshot?.sample ?? (snapshot ? "writing" : "");
  }

  function row(one) {
    const snapshot = past.of.get(one);
    if (!snapshot) return [grouped(one), "–", "–", "–"];
    const p = softmax(snapshot.logits, app.data.meta.vocabulary.length, chosenPosition(app));
    const [best] = largest(p, 1);
    return [grouped(one), bits(lossOf(snapshot)), `${glyph(app.data.meta.vocabulary[best])} ${percent(p[best])}`, (snapshot.sample ?? "").replace(/\n/g, "⏎").slice(0, 60)];
  }

  return { element, update };
}

function short(step) {
  return step >= 1000 && step % 100 === 0 ? `${step / 1000}k` : grouped(step);
}
