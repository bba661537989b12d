// What the browser remembers between visits: that the tour was seen, which explanations are folded. Some browsers refuse.

export function remembered(name) {
  try {
    return localStorage.getItem(`mlx-tinylm ${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`mlx-tinylm ${name}`, value);
  } catch { /* then the next visit is a first one again */ }
}
