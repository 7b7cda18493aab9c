// A router of three experts: pure functions first, then the picture.

const EXPERTS = [0, 1, 2];
const sum = (list) => list.reduce((a, b) => a + b, 0);

export function softmax(logits, temperature) {
  const most = Math.max(...logits);
  const powers = logits.map((x) => Math.exp((x - most) / temperature));
  return powers.map((x) => x / sum(powers));
}

// The experts with the k largest scores after the bias is added, best first; a tie goes to the lower number.
export const choose = (scores, bias, k) => [...EXPERTS].sort((a, b) => scores[b] + bias[b] - scores[a] - bias[a] || a - b).slice(0, k);

// The weights of the chosen experts: their scores without the bias, divided by their sum.
export function weigh(scores, chosen) {
  const whole = sum(chosen.map((i) => scores[i]));
  return chosen.map((i) => scores[i] / whole);
}

// Logits of n tokens, normal around `tilt`.
export function cloud(tilt, n = 90, seed = 1) {
  const draw = generator(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());
  return Array.from({ length: n }, () => tilt.map((mean) => mean + normal()));
}

// How many tokens each expert gets.
export function load(tokens, temperature, bias, k) {
  const counts = [0, 0, 0];
  for (const logits of tokens) for (const i of choose(softmax(logits, temperature), bias, k)) counts[i]++;
  return counts;
}

// One step of bias-only balance: up for experts with less than the mean load, down for the others.
export function balance(bias, counts, rate = 0.02) {
  const mean = sum(counts) / 3;
  return bias.map((b, i) => within(b + rate * Math.sign(mean - counts[i]), MOST));
}

// The part of a polygon, points as scores, in which the linear function `f` is not negative.
function clip(polygon, f) {
  return polygon.flatMap((p, at) => {
    const q = polygon[(at + 1) % polygon.length];
    const [a, b] = [f(p), f(q)];
    const crossing = (a < 0) !== (b < 0) ? [p.map((x, i) => x + ((q[i] - x) * a) / (a - b))] : [];
    return a < 0 ? crossing : [p, ...crossing];
  });
}

const CORNERS = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

// Where expert i alone is chosen (k = 1), or all but expert i (k = 2): a polygon, perhaps without a corner.
export function region(i, bias, k) {
  const sign = k === 1 ? 1 : -1;
  return EXPERTS.filter((j) => j !== i).reduce((left, j) => clip(left, (p) => sign * (p[i] + bias[i] - p[j] - bias[j])), CORNERS);
}

const [MOST, MOST_LOGIT] = [0.6, 4];
const within = (x, most) => Math.max(-most, Math.min(most, Math.round(100 * x) / 100)) || 0;
const signed = (x, digits) => x.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
const named = (list) => (list.length > 1 ? `experts ${list.map((i) => i + 1).join(" and ")}` : `expert ${list[0] + 1}`);

// What is to be seen, in words.
export function describe(logits, temperature, bias, k, counts) {
  const scores = softmax(logits, temperature);
  const [chosen, plain] = [choose(scores, bias, k), choose(scores, [0, 0, 0], k)];
  const weights = weigh(scores, chosen).map((x) => x.toFixed(2));
  const changed = [...chosen].sort().join() !== [...plain].sort().join();
  const shares = counts.map((n) => Math.round((100 * n) / sum(counts)));
  const uneven = Math.max(...counts) / (sum(counts) / 3);
  const first = `The scores of the token are ${scores.map((x) => x.toFixed(2)).join(", ")}; it goes to ${named(chosen)}` +
    (changed ? `; without the bias it would go to ${named(plain)}. ` : ". ");
  const second = k === 1 ? `The weight is ${weights[0]}, or the score, ${scores[chosen[0]].toFixed(2)}, where weights are not normalized. `
    : `The weights are ${weights.join(" and ")}, from the scores without the bias. `;
  return `${first}${second}Of ${sum(counts)} assignments the experts get ${shares.join(", ")} %; the busiest one has ${uneven.toFixed(2)} times the mean.`;
}

const [SIDE, HIGH, LEFT, TOP] = [300, 260, 20, 24]; // of the triangle, and where it begins
const KINDS = ["first", "second", "third"];
const at = (p) => [LEFT + SIDE * (p[1] + p[2] / 2), TOP + HIGH * (1 - p[2])];
const path = (polygon) => (polygon.length ? `M${polygon.map((p) => at(p).map((x) => x.toFixed(1)).join(" ")).join("L")}Z` : "");

// Scores at a place in the picture, none of them 0.
export function scoresAt(x, y) {
  const third = 1 - (y - TOP) / HIGH;
  const second = (x - LEFT) / SIDE - third / 2;
  const raw = [1 - second - third, second, third].map((p) => Math.max(0.002, p));
  return raw.map((p) => p / sum(raw));
}

// The logits, of mean 0, that give these scores.
export function logitsOf(scores, temperature) {
  const logs = scores.map((p) => temperature * Math.log(p));
  return logs.map((x) => within(x - sum(logs) / 3, MOST_LOGIT));
}

const range = (most, step) => Array.from({ length: Math.round((2 * most) / step) + 1 }, (_, i) => Math.round(100 * (i * step - most)) / 100 || 0);
const [LOGITS, BIASES, TEMPERATURES] = [range(MOST_LOGIT, 0.1), range(MOST, 0.02), [0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4]];

function render({ model, el }) {
  const change = (name) => (value) => put(model, name, value);
  const part = (name, i) => (value) => put(model, name, model.get(name).map((old, j) => (i === j ? value : old)));
  const tokens = cloud(model.get("tilt"));
  const logits = EXPERTS.map((i) => slider(`Logit ${i + 1}`, part("logits", i), (x) => signed(x, 2)));
  const bias = EXPERTS.map((i) => slider(`Bias ${i + 1}`, part("bias", i), (x) => signed(x, 2)));
  const temperature = slider("Temperature", change("temperature"), String);
  const top = select("Experts for each token", [["1", "1 of 3"], ["2", "2 of 3"]], (k) => put(model, "top_k", Number(k)));
  const now = () => load(tokens, model.get("temperature"), model.get("bias"), model.get("top_k"));
  const step = html("button", { type: "button", onclick: () => put(model, "bias", balance(model.get("bias"), now())) }, "One step of balance");
  const reset = html("button", { type: "button", onclick: () => put(model, "bias", [0, 0, 0]) }, "No bias");

  let dragging = false;
  const move = (event) => {
    const box = drawing.getBoundingClientRect();
    const scale = (SIDE + 2 * LEFT) / box.width;
    put(model, "logits", logitsOf(scoresAt((event.clientX - box.left) * scale, (event.clientY - box.top) * scale), model.get("temperature")));
  };
  const [picture, handle] = [svg("g"), svg("circle", { class: "handle", r: 22 })]; // a finger elsewhere scrolls the page
  const drawing = svg("svg", {
    viewBox: `0 0 ${SIDE + 2 * LEFT} ${HIGH + 2 * TOP}`, role: "img", class: "simplex",
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
  const loads = html("ul", { class: "bars" });
  const note = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Router simplex", [top.label, temperature.label, html("div", { class: "buttons" }, step, reset), dials(...logits), dials(...bias)],
    [html("div", { class: "pair" }, html("div", { class: "whole" }, drawing), html("div", { class: "part" }, loads)), note]);
  question.textContent = "Predict: if the bias of expert 3 rises until the loads are equal, do the weights of its tokens rise, too? Decide, then press ‘One step of balance’ several times.";

  return follow(model, ["logits", "bias", "top_k", "temperature"], () => {
    const [z, b, k, t] = ["logits", "bias", "top_k", "temperature"].map((name) => model.get(name));
    logits.forEach((control, i) => control.show(z[i], steps(LOGITS, z[i])));
    bias.forEach((control, i) => control.show(b[i], steps(BIASES, b[i])));
    temperature.show(t, steps(TEMPERATURES, t));
    top.show(String(k));
    const [counts, scores] = [now(), softmax(z, t)];
    const [x, y] = at(scores);
    const colour = (p) => KINDS[k === 1 ? choose(p, b, 1)[0] : 3 - sum(choose(p, b, 2))];
    handle.setAttribute("cx", x);
    handle.setAttribute("cy", y);
    const [one, two, three] = CORNERS.map(at);
    picture.replaceChildren(
      ...EXPERTS.map((i) => svg("path", { class: `region ${KINDS[i]}`, d: path(region(i, b, k)) })),
      svg("path", { class: "edge", d: path(CORNERS) }),
      svg("text", { x: one[0], y: one[1] + 16 }, "expert 1"),
      svg("text", { x: two[0], y: two[1] + 16, "text-anchor": "end" }, "expert 2"),
      svg("text", { x: three[0], y: three[1] - 8, "text-anchor": "middle" }, "expert 3"),
      ...tokens.map((token) => {
        const p = softmax(token, t);
        return svg("circle", { class: `token ${colour(p)}`, cx: at(p)[0].toFixed(1), cy: at(p)[1].toFixed(1), r: 2.6 });
      }),
      svg("circle", { class: "mine", cx: x.toFixed(1), cy: y.toFixed(1), r: 7 }),
    );
    loads.replaceChildren(...EXPERTS.map((i) => bar(String(i + 1), counts[i] / sum(counts), percent(counts[i] / sum(counts)), { class: KINDS[i] })));
    note.textContent = `The colour of a region is the expert that ${k === 1 ? "is chosen" : "is left out"} there. Dots: ${tokens.length} tokens; the large one is yours, drag it.`;
    drawing.setAttribute("aria-label", `Three experts as the corners of a triangle; the token has the scores ${scores.map((p) => p.toFixed(2)).join(", ")}`);
    sentence.textContent = describe(z, t, b, k, counts);
  });
}

export default { render };
