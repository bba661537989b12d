// A picture of what is no canvas: backgrounds, outlines and words of an element, painted where the page shows them.

import { ink, make } from "./canvas.js";

export function domPicture(element) {
  const ratio = window.devicePixelRatio || 1;
  const box = element.getBoundingClientRect();
  const canvas = make("canvas", { width: Math.ceil(element.scrollWidth * ratio), height: Math.ceil(element.scrollHeight * ratio) });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = ink(element).ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const origin = [box.left - element.scrollLeft, box.top - element.scrollTop];
  const walk = document.createTreeWalker(element, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  for (let node = element; node; node = walk.nextNode()) {
    if (node.nodeType === Node.TEXT_NODE) words(context, node, origin);
    else surface(context, node, origin);
  }
  return canvas;
}

function surface(context, element, [left, top]) {
  const style = getComputedStyle(element);
  for (const box of element.getClientRects()) {
    const place = [box.left - left, box.top - top, box.width, box.height];
    context.fillStyle = style.backgroundColor;
    context.fillRect(...place);
    if (style.outlineStyle === "solid" && element !== document.activeElement) {
      context.strokeStyle = style.outlineColor;
      context.lineWidth = parseFloat(style.outlineWidth);
      context.strokeRect(...place);
    }
  }
}

function words(context, text, [left, top]) {
  const style = getComputedStyle(text.parentElement);
  if (style.visibility === "hidden" || style.clipPath !== "none") return;
  context.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  context.fillStyle = style.color;
  context.textBaseline = "middle";
  const range = document.createRange();
  for (const word of text.data.matchAll(/\S+/g)) {
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    const box = range.getBoundingClientRect();
    if (box.width) context.fillText(word[0], box.left - left, box.top - top + box.height / 2);
  }
}
