// A view is built once and then brought up to date: focus, scrolling and what is unfolded stay as they are.

// The chosen position in the prompt; none chosen is the last.
export function chosenPosition({ state, data }) {
  return Math.min(state.position ?? Infinity, data.ids.length - 1);
}

// `build(app)` -> {element, update(app)}; the answer is a view's `render(root, app)`.
export function kept(build) {
  const views = new WeakMap();
  return (root, app) => {
    let view = views.get(root);
    if (!view || view.element.parentNode !== root) {
      view = build(app);
      root.replaceChildren(view.element);
      views.set(root, view);
    }
    view.update(app);
  };
}
