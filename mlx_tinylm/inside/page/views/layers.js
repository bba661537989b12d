// Layer by layer: what the stream would say after the embedding, each attention and each MLP.

import { cells, make, picture, tools } from "../canvas.js";
import { domPicture } from "../dom_picture.js";
import { chosenPosition, kept } from "../kept.js";
import { percent } from "../numbers.js";
import { css, inkOn, scaleBar, sequential } from "../scale.js";
import { brief, glyph, spoken } from "../text_data.js";

export const title = "Layer by layer";
export const promise = "how the prediction takes shape";
export const codeId = "layers";
export const above = "Each row reads the numbers at the chosen character as if the model ended there: after the embedding, after each attention, after each MLP. A layer is one attention (look at the past) and one MLP (work on what was found).";
export const below = "A lens is not the model's thought: it asks the early layers a question that only the last one was trained to answer, and a low rank early on does not mean that nothing is there.";

export function stageNames(layers) {
  const names = ["embedding"];
  for (let layer = 1; layer <= layers; layer += 1) names.push(`${layer} + attention`, `${layer} + MLP`);
  return names;
}

// Ranks from first (0) to last on a log scale, as 1..0.
export function height(rank, vocabulary) {
  return 1 - Math.log(1 + rank) / Math.log(vocabulary);
}

export const render = kept(build);

const rankTicks = (vocabulary) => [1, 3, 10, 30, 100, 1000, 10000].filter((rank) => rank <= vocabulary).reverse()
  .map((rank) => [height(rank - 1, vocabulary), rank === 1 ? "1st" : String(rank)]);

// The colours under the prompt: the rank that the whole model gave to each character before it came.
export function paint(app) {
  const { data } = app;
  if (!data?.ids.length) return { values: [], title: "rank", ticks: [] };
  const last = data.lens_rank.length - data.ids.length;
  const size = data.meta.vocabulary.length;
  return { values: Array.from(data.ids, (_, i) => (i ? height(data.lens_rank[last + i - 1], size) : null)), title: "rank", ticks: rankTicks(size) };
}

function build(app) {
  const follow = make("select", { id: "follow" });
  const said = make("p", { class: "reading", role: "status" });
  const body = make("tbody");
  const table = make("table", { class: "lens" },
    make("caption", { class: "visually-hidden", textContent: "The five likeliest to come next after each stage, and the rank of the followed one" }),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col", textContent: "after" }), make("th", { scope: "col", class: "rank-head", textContent: "rank" }),
      make("th", { scope: "col", colSpan: 5, textContent: `five likeliest next ${app.unit}s` }))), body);
  const map = picture({
    name: `rank of the next ${app.unit} at every stage`,
    label: () => `Rows are stages, columns the ${now.shape.T} positions; the colour is the rank of the ${app.unit} that really comes next. At position ${now.position} it goes from rank ${rankText(0)} to ${rankText(now.stages - 1)}.`,
    height: (width) => geometry(width).height,
    draw: drawMap,
    table: () => [["position", "next", ...stageNames(now.shape.L)], mapRows()],
    json: () => ({ stages: stageNames(now.shape.L), ids: [...app.data.ids], rank: rows(app.data.lens_rank, now.shape.T) }),
    onPoint: (x, y, kind) => {
      const box = geometry(map.canvas.clientWidth);
      const position = Math.floor((x / (window.devicePixelRatio || 1) - box.left) / box.cell);
      if (kind === "click" && position >= 0 && position < now.shape.T) app.set({ position });
    },
  });
  const element = make("div", { class: "view-layers" },
    make("div", { class: "controls" }, make("label", { htmlFor: "follow", textContent: "Follow" }), follow), said,
    make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "the prediction after each stage" }, table),
    make("div", { class: "scales" }, scaleBar({ title: "probability", ticks: [[0, "0%"], [0.5, "50%"], [1, "100%"]] })),
    tools({ name: "layer by layer", picture: () => domPicture(table),
      json: () => ({ position: now.position, stages: stageNames(now.shape.L).map((name, stage) => ({ after: name, top: top(stage).map(([id, p]) => [app.data.meta.vocabulary[id], p]) })) }) }).element,
    make("h3", { textContent: "The same for every position" }),
    make("p", { class: "note", textContent: `One column a position, one row a stage, the last at the bottom; the colour is the rank of the ${app.unit} that really comes next.` }),
    map.element);
  const ranks = element.appendChild(make("div", { class: "scales" }));
  map.element.before(ranks);
  let now = null;
  let chosen = null;
  let cached = {};
  follow.addEventListener("change", () => {
    chosen = follow.value === "" ? null : Number(follow.value);
    update(app);
  });

  function update(next) {
    app = next;
    const data = app.data;
    if (!data?.ids.length) return;
    const vocabulary = data.meta.vocabulary;
    const shape = { T: data.ids.length, V: vocabulary.length, L: data.meta.model.layers };
    now = { shape, stages: 1 + 2 * shape.L, position: chosenPosition(app) };
    if (cached.vocabulary !== vocabulary) {
      follow.replaceChildren(make("option", { value: "", textContent: `the ${app.unit} that comes next` }),
        ...(data.lens_ranks ? vocabulary.map((token, id) => make("option", { value: String(id), textContent: spoken(token) })) : []));
      ranks.replaceChildren(scaleBar({ title: "rank", ticks: rankTicks(shape.V) }));
      cached = { vocabulary };
    }
    const followed = followedId();
    said.textContent = followed === null
      ? `The last ${app.unit} of the prompt: nothing follows yet, so the model's first choice is followed.`
      : `After ${spoken(vocabulary[data.ids[now.position]])} (position ${now.position}) ${chosen === null ? "really comes" : "you follow"} ${spoken(vocabulary[followed])}.`;
    if (top(0)[0][0] === data.ids[now.position]) {
      said.textContent += ` After the embedding alone ${spoken(vocabulary[data.ids[now.position]])} itself is likeliest: one table turns ${app.unit}s into numbers and, at the end, numbers into ${app.unit}s.`;
    }
    drawRows(followed ?? best());
    map.redraw();
  }

  const followedId = () => chosen ?? (now.position + 1 < now.shape.T ? app.data.ids[now.position + 1] : null);
  const best = () => app.data.lens_top[((now.stages - 1) * now.shape.T + now.position) * 5];

  // The rank of `id` after a stage, from 0; null where it was not measured.
  function rankOf(stage, id) {
    const { data } = app;
    const { T, V } = now.shape;
    if (data.lens_ranks) return data.lens_ranks[(stage * T + now.position) * V + id];
    if (now.position + 1 < T && id === data.ids[now.position + 1]) return data.lens_rank[stage * T + now.position];
    const place = top(stage).findIndex(([other]) => other === id);
    return place >= 0 ? place : null;
  }

  function top(stage) {
    const at = (stage * now.shape.T + now.position) * 5;
    return Array.from({ length: 5 }, (_, i) => [app.data.lens_top[at + i], app.data.lens_top_p[at + i]]).filter(([id]) => id >= 0);
  }

  function drawRows(id) {
    const { vocabulary } = app.data.meta;
    body.replaceChildren(...stageNames(now.shape.L).map((name, stage) => {
      const rank = rankOf(stage, id);
      const track = make("div", { class: "rank-track" });
      if (rank !== null) track.append(mark(rank));
      return make("tr", { class: stage % 2 || !stage ? "" : "layer-end" }, make("th", { scope: "row", textContent: name }),
        make("td", { class: "rank" }, track, make("span", { class: "rank-number", textContent: rank === null ? "–" : String(rank + 1) })),
        ...top(stage).map(([token, p]) => {
          const rgb = sequential(p);
          const cell = make("td", { class: token === id ? "lens-cell followed" : "lens-cell" },
            make("div", {}, make("span", { class: "glyph", textContent: brief(vocabulary[token], 5) }), make("span", { class: "p", textContent: percent(p) })));
          cell.style.backgroundColor = css(rgb);
          cell.style.color = inkOn(rgb);
          return cell;
        }));
    }));
  }

  function mark(rank) {
    const dot = make("span", { class: "rank-dot" });
    dot.style.left = `${100 * height(rank, now.shape.V)}%`;
    return dot;
  }

  function rankText(stage) {
    const rank = now.position + 1 < now.shape.T ? app.data.lens_rank[stage * now.shape.T + now.position] : rankOf(stage, best());
    return rank === null || rank < 0 ? "–" : String(rank + 1);
  }

  function mapRows() {
    const { data } = app;
    return Array.from({ length: now.shape.T - 1 }, (_, position) => [`${position} ${glyph(data.meta.vocabulary[data.ids[position]])}`,
      glyph(data.meta.vocabulary[data.ids[position + 1]]),
      ...Array.from({ length: now.stages }, (_, stage) => data.lens_rank[stage * now.shape.T + position] + 1)]);
  }

  function geometry(width) {
    const { T } = now?.shape ?? { T: 1 };
    const left = width < 520 ? 84 : 100;
    const ratio = window.devicePixelRatio || 1;
    const cell = Math.max(1, Math.min(20 * ratio, Math.floor(((width - left) * ratio) / T))) / ratio;
    const row = width < 520 ? 14 : 16;
    return { left, cell, row, top: 4, height: 4 + (now?.stages ?? 17) * row + 24, letters: cell >= 9 };
  }

  function drawMap({ context, width, ratio, ink }) {
    const box = geometry(width / ratio);
    const { T, V } = now.shape;
    const cell = Math.round(box.cell * ratio);
    const left = Math.round(box.left * ratio);
    const row = Math.round(box.row * ratio);
    const room = Math.max(1, Math.floor((width - left) / cell));
    const first = Math.max(0, Math.min(T - room, now.position - Math.floor(room / 2)));
    const columns = Math.min(T, room) - (first + room >= T ? 1 : 0);
    if (columns > 0) {
      cells(context, { rows: now.stages, columns, x: left, y: Math.round(box.top * ratio), width: cell * columns, height: row * now.stages,
        colour: (stage, column) => sequential(height(app.data.lens_rank[stage * T + first + column], V)) });
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = `${box.row - 3}px ${ink.sans}`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillStyle = ink.text;
    stageNames(now.shape.L).forEach((name, stage) => context.fillText(name, box.left - 8, box.top + (stage + 0.5) * box.row));
    context.textAlign = "center";
    context.font = `${Math.min(14, box.cell + 2)}px ${ink.mono}`;
    for (let column = 0; column <= columns && first + column < T; column += 1) {
      const here = first + column === now.position;
      if (!box.letters && !here) continue;
      context.fillStyle = here ? ink.chosen : ink.muted;
      if (!box.letters) context.font = `14px ${ink.mono}`;
      context.fillText(glyph(app.data.meta.vocabulary[app.data.ids[first + column]]), box.left + (column + 0.5) * box.cell, box.top + now.stages * box.row + 12);
    }
    context.strokeStyle = ink.chosen;
    context.lineWidth = 2;
    context.strokeRect(box.left + (now.position - first) * box.cell - 1, box.top - 1, Math.max(box.cell, 2) + 2, now.stages * box.row + 2);
  }

  return { element, update };
}

function rows(flat, columns) {
  return Array.from({ length: flat.length / columns }, (_, i) => [...flat.subarray(i * columns, (i + 1) * columns)]);
}
