// Windows over a text: pure functions first, then the picture. Tokens and windows are counted from 0.

export const LONGEST = 32; // tokens of a window or a stride

// How many windows of T inputs, each with one more token as its last target, n tokens have.
export const windows = (n, T, stride) => Math.max(0, Math.floor((n - 1 - T) / stride) + 1);

// The tokens that window i reads and those it predicts.
export function windowAt(i, T, stride) {
  const x = Array.from({ length: T }, (_, t) => i * stride + t);
  return { x, y: x.map((at) => at + 1) };
}

// For each of n tokens: how many windows read it, and how many predict it.
export function uses(n, T, stride) {
  const read = Array(n).fill(0);
  const predicted = Array(n).fill(0);
  for (let i = 0; i < windows(n, T, stride); i++) {
    const { x, y } = windowAt(i, T, stride);
    x.forEach((at) => read[at]++);
    y.forEach((at) => predicted[at]++);
  }
  return { read, predicted };
}

const range = (places) => places.length > 1 ? `tokens ${places[0]}–${places.at(-1)}` : `token ${places[0]}`;

// What is to be seen, in words.
export function describe(n, T, stride, i) {
  const count = windows(n, T, stride);
  if (!count) return `No window: ${many(T, "token")} and one more for the last target do not fit into a text of ${n}.`;
  const { read, predicted } = uses(n, T, stride);
  const { x, y } = windowAt(i, T, stride);
  const twice = predicted.filter((times) => times > 1).length;
  const missed = read.filter((times, at) => !times && !predicted[at]).length;
  return `${many(count, "window")} of ${many(T, "token")} with a stride of ${stride}; window ${i} reads ${range(x)} and ` +
    `predicts ${range(y).replace(/^\w+ /, "")}; ${twice ? many(twice, "token") : "no token"} ` +
    `${twice > 1 ? "are" : "is"} predicted twice or more` + (missed ? `, and no window reaches ${many(missed, "token")}.` : ".");
}

function render({ model, el }) {
  const text = [...model.get("text")];
  const n = text.length;
  const dial = (name, label, min, max) => {
    const input = html("input", { type: "range", min, max, step: 1, oninput: () => put(model, name, input.valueAsNumber) });
    const value = html("span");
    return { input, value, label: field(label, input, value) };
  };
  const block = dial("block_size", "Block size T", 1, Math.min(LONGEST, n - 1));
  const stride = dial("stride", "Stride", 1, LONGEST);
  const place = dial("window", "Window", 0, 0);
  const last = () => windows(n, model.get("block_size"), model.get("stride")) - 1;
  const go = (i) => put(model, "window", Math.min(Math.max(i, 0), last()));
  const back = html("button", { type: "button", onclick: () => go(place.input.valueAsNumber - 1) }, "Previous");
  const forward = html("button", { type: "button", onclick: () => go(place.input.valueAsNumber + 1) }, "Next");

  const chip = (at) => html("span", { class: "chip", title: `token ${at}` }, visible(text[at]));
  const tokens = text.map((_, at) => chip(at));
  const strip = html("div", { class: "chips strip mono scroll", dir: "ltr", tabindex: 0, role: "group", "aria-label": "The text as tokens" },
    ...tokens);
  const [inputs, targets] = [html("span"), html("span")];
  const pair = html("div", { class: "strip mono scroll", dir: "ltr", tabindex: 0, role: "group", "aria-label": "Inputs x and targets y of the window" },
    html("div", { class: "line" }, html("b", {}, "x"), inputs), html("div", { class: "line" }, html("b", {}, "y"), targets));
  const key = (style, what) => html("span", {}, html("span", { class: `chip ${style}` }, "a"), ` ${what}`);
  const note = html("p", { class: "note keys" }, key("newest", "read by this window"), key("merged", "only predicted by it"),
    key("again", "predicted twice or more"), key("masked", "in no window"));

  const { question, sentence } = frame(el, "Window slider",
    [block.label, stride.label, place.label, html("div", { class: "buttons" }, back, forward)], [strip, note, pair]);
  question.textContent = "Predict: how many windows will there be if you halve the stride? Decide, then move the slider.";

  return follow(model, ["block_size", "stride", "window"], () => {
    const [T, S] = [model.get("block_size"), model.get("stride")];
    const i = Math.max(0, Math.min(model.get("window"), last()));
    const { read, predicted } = uses(n, T, S);
    const { x, y } = windowAt(i, T, S);
    for (const [{ input, value }, now, shown] of [[block, T, T], [stride, S, S], [place, i, `${i} of 0–${last()}`]]) {
      if (input === place.input) input.max = last();
      input.value = now;
      value.textContent = shown;
    }
    // Marked, not disabled: a disabled button loses the focus under the reader's fingers.
    back.setAttribute("aria-disabled", i === 0);
    forward.setAttribute("aria-disabled", i === last());

    tokens.forEach((node, at) => {
      const role = x.includes(at) ? "newest" : at === y.at(-1) ? "merged" : read[at] || predicted[at] ? "" : "masked";
      node.className = `chip ${role}${predicted[at] > 1 ? " again" : ""}`;
    });
    const show = (places, style) => places.map((at) => Object.assign(chip(at), { className: `chip ${style}` }));
    inputs.replaceChildren(...show(x, "newest"));
    targets.replaceChildren(...show(y, "merged"));
    sentence.textContent = describe(n, T, S, i);
  });
}

export default { render };
