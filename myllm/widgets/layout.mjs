// The layout of every widget: a question, controls, a picture, one sentence that says what is now seen.

const MARKS = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };

// A character as it can be seen: marks for white space, "·" for what does not print.
export const visible = (ch) => MARKS[ch] ?? (/^[\p{C}\p{Z}]$/u.test(ch) ? "·" : ch);

export const percent = (p) => `${(100 * p).toFixed(1)} %`;

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A native input under its label; `value` shows what the input now says. The name stays the same throughout.
function field(name, input, value = "") {
  input.setAttribute("aria-label", name);
  return html("label", {}, html("span", {}, name, value && ": ", value), input);
}

// One row of a list of bars; `share` of the track is filled.
const bar = (name, share, value, attributes = {}) =>
  html("li", attributes, html("span", { class: "mono" }, name),
    html("div", { class: "track" }, html("div", { class: "bar", style: `width: ${100 * share}%` })),
    html("span", { class: "value" }, value));

// Draws the frame into `el`; returns the question and the sentence, which the widget fills.
function frame(el, name, controls, picture) {
  const question = html("p", { class: "question" });
  const sentence = html("p", { class: "sentence", "aria-live": "polite" });
  el.replaceChildren(
    html("div", { class: "myllm-widget", role: "group", "aria-label": name },
      question, html("div", { class: "controls" }, ...controls), html("div", { class: "picture" }, ...picture), sentence));
  return { question, sentence };
}

// Calls `update` now and whenever one of `names` changes; the function returned ends that.
function follow(model, names, update) {
  for (const name of names) model.on(`change:${name}`, update);
  update();
  return () => names.forEach((name) => model.off(`change:${name}`, update));
}

function put(model, name, value) {
  model.set(name, value);
  model.save_changes();
}
