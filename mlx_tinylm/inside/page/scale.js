// Colour scales: cividis for amounts, blue over grey to orange for differences. Both are read without red and green.

// Cividis at ten even steps (Nunez, Anderton and Renslow 2018, "Optimizing colormaps with consideration for color vision deficiency").
const CIVIDIS = [
  [0, 32, 77], [0, 51, 111], [57, 72, 107], [87, 92, 109], [112, 113, 115],
  [138, 135, 121], [166, 157, 117], [196, 181, 108], [228, 207, 91], [255, 234, 70],
];
const DIFFERENCE = {
  light: [[20, 84, 160], [110, 160, 210], [232, 232, 230], [236, 160, 90], [184, 74, 0]],
  dark: [[120, 184, 250], [62, 112, 170], [48, 50, 54], [172, 100, 40], [255, 160, 80]],
};
const scheme = matchMedia("(prefers-color-scheme: dark)");

export const TOP = 6; // bits of surprise at which its scale ends
export const SURPRISE = { title: "surprise", ticks: [[0, "0 bits"], [0.5, `${TOP / 2}`], [1, `${TOP} or more`]] };

export function isDark() {
  return scheme.matches;
}

// Call `changed` whenever the colour scheme does.
export function onScheme(changed) {
  scheme.addEventListener("change", changed);
}

// The colour of x in 0..1, as [r, g, b]. Nothing is close to the page's ground: the light scheme reads cividis from its bright end,
// and its first quarter fades to white, or most of a picture would shout in yellow that there is little to see.
export function sequential(x, dark = isDark()) {
  if (dark) return between(CIVIDIS, x);
  const strength = 0.16 + 0.84 * Math.min(Math.max(x || 0, 0) / 0.45, 1);
  return between(CIVIDIS, 1 - x).map((value) => Math.round(255 - strength * (255 - value)));
}

// The colour of x in -1..1: less is blue, as before is grey, more is orange.
export function difference(x, dark = isDark()) {
  return between(dark ? DIFFERENCE.dark : DIFFERENCE.light, (x + 1) / 2);
}

function between(stops, x) {
  const place = Math.min(Math.max(x || 0, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (place - low)));
}

export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

// Relative luminance, 0..1 (WCAG 2.2).
export function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

// Black or white, whichever stands out more: 4.58 at the least.
export function inkOn(rgb) {
  return luminance(rgb) > 0.179 ? "#000" : "#fff";
}

// A scale with its numbers: ticks are [place 0..1, label].
export function scaleBar({ kind = "sequential", title, ticks }) {
  const element = document.createElement("div");
  element.className = "scale";
  const name = element.appendChild(document.createElement("span"));
  name.className = "scale-title";
  name.textContent = title;
  const body = element.appendChild(document.createElement("div"));
  body.className = "scale-body";
  const canvas = body.appendChild(document.createElement("canvas"));
  canvas.setAttribute("aria-hidden", "true");
  canvas.width = 192;
  canvas.height = 1;
  const paint = () => {
    const context = canvas.getContext("2d");
    for (let i = 0; i < canvas.width; i += 1) {
      const x = i / (canvas.width - 1);
      context.fillStyle = css(kind === "sequential" ? sequential(x) : difference(2 * x - 1));
      context.fillRect(i, 0, 1, 1);
    }
  };
  paint();
  onScheme(() => canvas.isConnected && paint());
  const marks = body.appendChild(document.createElement("div"));
  marks.className = "scale-marks";
  for (const [place, label] of ticks) {
    const mark = marks.appendChild(document.createElement("span"));
    mark.textContent = label;
    mark.style.left = `${place * 100}%`;
    if (place === 0) mark.classList.add("first");
    if (place === 1) mark.classList.add("last");
  }
  return element;
}
