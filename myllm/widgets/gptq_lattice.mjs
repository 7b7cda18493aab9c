// GPTQ in two dimensions: pure functions first, then the picture.

export const points = (bits) => 2 ** (bits - 1) - 1; // on each side of 0

// The nearest grid point.
export const nearest = (x, bits) => (x < 0 ? -1 : 1) * Math.min(1, Math.round(Math.abs(x) * points(bits)) / points(bits));

// The mean squared error of the output after the weights w have become q; r is the correlation of the inputs.
export function error(w, q, r) {
  const [a, b] = [q[0] - w[0], q[1] - w[1]];
  return a * a + b * b + 2 * r * a * b;
}

export const rounded = (w, bits) => w.map((x) => nearest(x, bits));

// Rounds one weight, moves the other to where it makes up for that error best, and rounds it there. Of all lattice points
// with the same first weight this is the best one, so in two dimensions GPTQ is never worse than rounding.
export function gptq(w, r, bits, first) {
  const q = nearest(w[first], bits);
  const moved = w[1 - first] + r * (w[first] - q);
  const end = nearest(moved, bits);
  return first ? { moved: [moved, q], q: [end, q] } : { moved: [q, moved], q: [q, end] };
}

// The lattice point of the least error, found by trying all.
export function best(w, r, bits) {
  const n = points(bits);
  const axis = Array.from({ length: 2 * n + 1 }, (_, i) => (i - n) / n);
  const all = axis.flatMap((a) => axis.map((b) => [a, b]));
  return all.reduce((found, q) => (error(w, q, r) < error(w, found, r) - 1e-12 ? q : found));
}

const at = (x) => x.toFixed(2).replace("-", "−").replace(/^−0\.00$/, "0.00");
const pair = (q) => `(${q.map(at).join(", ")})`;
const small = (x) => x.toFixed(4);
const same = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) < 1e-9;
const times = (x) => (x >= 100 ? "more than 100" : x.toFixed(1));

// What is to be seen, in words.
export function describe(w, r, bits, first) {
  const [plain, { q }, least] = [rounded(w, bits), gptq(w, r, bits, first), best(w, r, bits)];
  const [before, after] = [error(w, plain, r), error(w, q, r)];
  const optimal = same(q, least) ? "No other lattice point is better."
    : `The best of the ${(2 * points(bits) + 1) ** 2} lattice points, ${pair(least)}, has ${small(error(w, least, r))}: GPTQ decides one weight at a time.`;
  if (same(plain, q))
    return `Rounding and GPTQ both choose ${pair(q)}, with the output error ${small(after)}${r === 0 ? ": without correlation nothing can be made up for" : ""}. ${optimal}`;
  const [far, near] = [q, plain].map((point) => Math.hypot(point[0] - w[0], point[1] - w[1]));
  return `Rounding chooses ${pair(plain)}, with the output error ${small(before)}; GPTQ chooses ${pair(q)}, with ${small(after)}: ${times(before / after)} times less. ` +
    `Its point is ${far.toFixed(2)} from the weights, the rounded one ${near.toFixed(2)}. ${optimal}`;
}

const [SIDE, HALF] = [340, 140]; // of the picture, and from its middle to a weight of 1
const hundredth = (x) => Math.max(-1, Math.min(1, Math.round(100 * x) / 100)) || 0;
const RANGE = Array.from({ length: 201 }, (_, i) => hundredth((i - 100) / 100));
const CORRELATIONS = Array.from({ length: 39 }, (_, i) => hundredth((i - 19) / 20));

function render({ model, el }) {
  const change = (name) => (value) => put(model, name, value);
  const weights = [0, 1].map((i) => slider(`Weight w${"₁₂"[i]}`, (x) => put(model, "weight", model.get("weight").map((old, j) => (i === j ? x : old))), at));
  const correlation = slider("Correlation", change("correlation"), at);
  const bits = select("Grid", [2, 3, 4].map((n) => [String(n), `${n} bits: ${2 * points(n) + 1} points each`]), (n) => put(model, "bits", Number(n)));
  const first = select("GPTQ rounds first", [["0", "w₁"], ["1", "w₂"]], (i) => put(model, "first", Number(i)));
  const x = (value) => SIDE / 2 + HALF * value;
  const y = (value) => SIDE / 2 - HALF * value;
  let dragging = false;
  const move = (event) => {
    const box = drawing.getBoundingClientRect();
    const to = ([at, size]) => hundredth(((at / size) * SIDE - SIDE / 2) / HALF);
    put(model, "weight", [to([event.clientX - box.left, box.width]), to([box.bottom - event.clientY, box.height])]);
  };
  const [picture, handle] = [svg("g"), svg("circle", { class: "handle", r: 22 })]; // a finger elsewhere scrolls the page
  const drawing = svg("svg", {
    viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", class: "lattice",
    ontouchstart: (event) => event.target === handle && event.preventDefault(), // no scrolling while dragging
    onpointerdown: (event) => {
      if (event.pointerType === "touch" && event.target !== handle) return;
      dragging = true;
      drawing.setPointerCapture(event.pointerId);
      move(event);
    },
    onpointermove: (event) => dragging && move(event),
    onpointerup: () => { dragging = false; },
    onpointercancel: () => { dragging = false; },
  }, picture, handle);
  const key = (kind, said) => html("span", {}, html("span", { class: `swatch ${kind}` }), ` ${said}`);
  const note = html("p", { class: "note keys" }, key("before", "the weights; drag them"), key("rounding", "rounding"), key("corrected", "GPTQ"),
    html("span", {}, "○ after compensation"), html("span", {}, "ellipses: equal output error"));
  const { question, sentence } = frame(el, "GPTQ lattice", [first.label, bits.label, dials(correlation, ...weights)], [drawing, note]);
  question.textContent = "Predict: which lattice point changes the output least? Decide, then drag the weights and change the correlation.";

  return follow(model, ["weight", "correlation", "bits", "first"], () => {
    const [w, r, n, i] = ["weight", "correlation", "bits", "first"].map((name) => model.get(name));
    weights.forEach((control, j) => control.show(w[j], steps(RANGE, w[j])));
    correlation.show(r, steps(CORRELATIONS, r));
    bits.show(String(n));
    first.show(String(i));
    const [plain, { moved, q }] = [rounded(w, n), gptq(w, r, n, i)];
    const side = points(n);
    const axis = Array.from({ length: 2 * side + 1 }, (_, k) => (k - side) / side);
    // With the axes turned by 45°, eᵀ H e = (1 + r) u² + (1 − r) v².
    const ellipse = (kind, level) => svg("ellipse", {
      class: kind, rx: HALF * Math.sqrt(level / (1 + r)), ry: HALF * Math.sqrt(level / (1 - r)),
      transform: `translate(${x(w[0])} ${y(w[1])}) rotate(-45)`,
    });
    const arrow = (from, to, kind) => svg("path", { class: kind, d: `M${x(from[0])} ${y(from[1])}L${x(to[0])} ${y(to[1])}` });
    handle.setAttribute("cx", x(w[0]));
    handle.setAttribute("cy", y(w[1]));
    picture.replaceChildren(
      svg("path", { class: "rule", d: axis.map((a) => `M${x(a)} ${y(-1)}V${y(1)}M${x(-1)} ${y(a)}H${x(1)}`).join("") }),
      svg("path", { class: "axis", d: `M${x(-1.12)} ${y(0)}H${x(1.12)}M${x(0)} ${y(-1.12)}V${y(1.12)}` }),
      svg("text", { x: x(1.14), y: y(0.03), "text-anchor": "end" }, "w₁"), svg("text", { x: x(0.03), y: y(1.1) }, "w₂"),
      ellipse("rounding", error(w, plain, r)), ellipse("corrected", error(w, q, r)),
      ...axis.flatMap((a) => axis.map((b) => svg("circle", { class: "point", cx: x(a), cy: y(b), r: 2.2 }))),
      arrow(w, plain, "way rounding"),
      ...[[w, i ? [w[0], q[1]] : [q[0], w[1]]], [i ? [w[0], q[1]] : [q[0], w[1]], moved], [moved, q]].map(([from, to]) => arrow(from, to, "way corrected")),
      svg("circle", { class: "moved", cx: x(moved[0]), cy: y(moved[1]), r: 3.5 }),
      svg("rect", { class: "rounding", x: x(plain[0]) - 7, y: y(plain[1]) - 7, width: 14, height: 14 }),
      svg("circle", { class: "corrected", cx: x(q[0]), cy: y(q[1]), r: 5 }),
      svg("circle", { class: "before", cx: x(w[0]), cy: y(w[1]), r: 6 }),
    );
    drawing.setAttribute("aria-label", `The weights at ${pair(w)}, rounded to ${pair(plain)}, by GPTQ to ${pair(q)}`);
    sentence.textContent = describe(w, r, n, i);
  });
}

export default { render };
