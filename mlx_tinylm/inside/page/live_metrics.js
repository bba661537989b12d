// The lines of metrics.jsonl as they come: increments, resumed runs, runs that began anew.

const EVERY = 1000; // ms between two questions while a run trains
const MUCH = 100_000; // bytes: an answer with more of them may not be the last

// One run's lines, in the order of the steps.
export function metrics(run) {
  const self = { run, training: [], validations: [], next: 0, live: false, baselines: null, take };
  function take(answer) {
    if (answer.restarted || answer.next < self.next) {
      self.training = [];
      self.validations = [];
    }
    for (const { step, loss, val_loss: validation, baselines } of answer.lines) {
      self.baselines = baselines ?? self.baselines;
      // A resumed run goes on from its last checkpoint: what came after it is made again.
      if (self.training.length && step <= self.training.at(-1)[0]) cut(self.training, step);
      if (self.validations.length && step <= self.validations.at(-1)[0]) cut(self.validations, step);
      if (Number.isFinite(loss)) self.training.push([step, loss]);
      if (Number.isFinite(validation)) self.validations.push([step, validation]);
    }
    self.next = answer.next;
    self.live = Boolean(answer.live);
    self.baselines = answer.baselines ?? self.baselines;
  }
  return self;
}

function cut(points, step) {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  points.length = low;
}

// Asks for all `runs` until `isWanted()` is false: once, and again each second while one of them trains.
export async function follow(api, runs, isWanted, changed) {
  let pause = EVERY;
  while (isWanted()) {
    for (const one of runs()) {
      if (!isWanted()) return;
      const before = one.next;
      const was = one.live;
      try {
        let from;
        do { // a long run comes in several answers
          from = one.next;
          one.take(await api.metrics({ run: one.run, from }));
        } while (one.next > from + MUCH);
        if (one.next !== before || was !== one.live) changed();
        pause = EVERY;
      } catch (error) {
        changed(error);
        if (error.final) return;
        pause = Math.min(2 * pause, 30 * EVERY);
      }
    }
    const live = runs().some((one) => one.live);
    await new Promise((done) => setTimeout(done, live ? pause : 5 * pause));
  }
}
