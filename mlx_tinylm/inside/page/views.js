// The eight views, in the order in which a newcomer reads them; the key of each is its number.
// A view exports title, promise, above, below, codeId and render(root, app), and may export paint(app) -> the prompt's colours
// {values: [0..1 or null], title, ticks}, onKey(key, app, root) -> whether it took the key, and leave().

import * as next from "./views/next.js";
import * as writing from "./views/writing.js";
import * as surprise from "./views/surprise.js";
import * as layers from "./views/layers.js";
import * as attention from "./views/attention.js";
import * as characters from "./views/characters.js";
import * as growing from "./views/growing.js";
import * as guess from "./views/guess.js";

export const VIEWS = { next, writing, surprise, layers, attention, characters, growing, guess };
