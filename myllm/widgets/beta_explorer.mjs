// The optimum of reward less β KL over seven answers, and a policy that learns from preferences: pure functions first.

// Answers to "rev: stone >", how likely each is before learning, and its reward.
export const ANSWERS = [["enots", 0.05, 1], ["enot", 0.05, 0.7], ["enost", 0.1, 0.5], ["e", 0.15, 0.2], ["stone", 0.3, 0], ["ssttoonnee", 0.2, 0], ["s", 0.15, 0]]
  .map(([text, rho, paid]) => ({ text, rho, paid }));
const RHO = ANSWERS.map(({ rho }) => rho);
const REWARD = ANSWERS.map(({ paid }) => paid);
export const BETAS = [0.05, 0.1, 0.2, 0.3, 0.5, 1, 2];
export const UPDATES = 400;
const RATE = 0.05;

const sum = (values) => values.reduce((a, b) => a + b, 0);
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

export const softmax = (logits) => {
  const highest = Math.max(...logits);
  const powers = logits.map((z) => Math.exp(z - highest));
  const total = sum(powers);
  return powers.map((x) => x / total);
};

export const optimum = (beta) => softmax(RHO.map((p, i) => Math.log(p) + REWARD[i] / beta));
export const reward = (p) => sum(p.map((x, i) => x * REWARD[i]));
export const divergence = (p) => Math.max(0, sum(p.map((x, i) => (x ? x * Math.log(x / RHO[i]) : 0))));
export const distance = (p, q) => sum(p.map((x, i) => Math.abs(x - q[i]))) / 2;

// How often answer i is preferred to answer j.
export const wins = (i, j, always) => (always ? (1 + Math.sign(REWARD[i] - REWARD[j])) / 2 : sigmoid(REWARD[i] - REWARD[j]));

// The gradient of a loss with respect to the log-ratios h = ln π - ln π_ref of the answers.
export function slope(method, h, beta, always, drift) {
  const found = h.map(() => 0);
  if (method === "kto")
    return h.map((x, i) => {
      const good = sum(RHO.map((p, j) => p * wins(i, j, always)));
      const s = sigmoid(beta * (x - drift));
      return RHO[i] * beta * s * (1 - s) * (1 - 2 * good);
    });
  h.forEach((x, i) => h.forEach((y, j) => {
    const weight = 2 * RHO[i] * RHO[j] * wins(i, j, always);
    const g = weight * (method === "dpo" ? -beta * sigmoid(-beta * (x - y)) : 2 * (x - y - 1 / (2 * beta)));
    found[i] += g;
    found[j] -= g;
  }));
  return found;
}

// The policies of a run by Adam, before each update and at the end.
export function run(method, beta, always) {
  let logits = RHO.map(Math.log);
  let [m, v] = [RHO.map(() => 0), RHO.map(() => 0)];
  return Array.from({ length: UPDATES + 1 }, (_, n) => {
    const p = softmax(logits);
    const h = p.map((x, i) => Math.log(x / RHO[i]));
    const g = slope(method, h, beta, always, divergence(p));
    const change = g.map((x, k) => x - p[k] * sum(g));
    m = m.map((x, k) => 0.9 * x + 0.1 * change[k]);
    v = v.map((x, k) => 0.999 * x + 0.001 * change[k] ** 2);
    const [a, b] = [1 - 0.9 ** (n + 1), 1 - 0.999 ** (n + 1)];
    logits = logits.map((z, k) => z - (RATE * m[k]) / a / (Math.sqrt(v[k] / b) + 1e-8));
    return p;
  });
}

// What is seen, in words.
export function describe(method, beta, policy, shown) {
  const best = optimum(beta);
  return `The optimum for β = ${beta} earns ${reward(best).toFixed(2)} and lies ${divergence(best).toFixed(2)} nats from the start. ` +
    `After ${many(shown, "update")} ${method.toUpperCase()} earns ${reward(policy).toFixed(2)} at ${divergence(policy).toFixed(2)} nats; ` +
    `${percent(distance(policy, best))} of its probability lies elsewhere.`;
}

const [LEFT, WIDE, HIGH, MOST] = [34, 340, 230, 3];

function render({ model, el }) {
  const names = ["method", "beta", "always"];
  const change = (name) => (value) => put(model, name, value);
  const method = select("Loss", [["dpo", "DPO"], ["ipo", "IPO"], ["kto", "KTO"]], change("method"));
  const beta = slider("β", change("beta"), String);
  const when = slider("Shown after", change("shown"), (n) => many(n, "update"));
  const always = toggle("the better answer always wins", change("always"));
  const plane = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "beta-plane" });
  const list = html("ul", { class: "beta-answers" });
  const { question, sentence } = frame(el, "Beta explorer",
    [dials(method, beta, when), always.label],
    [html("div", { class: "pair" },
      html("div", { class: "part" },
        html("p", { class: "note" }, "Each answer to “rev: stone >” with its reward; below it the probability ", html("b", { class: "start" }, "at the start"), ", ", html("b", { class: "best" }, "at the optimum"), " and ", html("b", { class: "now" }, "of the policy")), list),
      html("div", { class: "part" }, html("p", { class: "note" }, "Reward against divergence from the start; the line is the optimum for all β"), plane))]);
  question.textContent = "Predict: DPO learns from preferences as often as they occur, and stops at the optimum. Will it still stop there if the better answer always wins? Decide, then switch that on and move “Shown after”.";

  let policies, key;
  return follow(model, [...names, "shown"], () => {
    const settings = names.map((name) => model.get(name));
    if (key !== String(settings)) [key, policies] = [String(settings), run(...settings)];
    const [kind, at, sure] = settings;
    const shown = Math.min(Math.max(model.get("shown"), 0), UPDATES);
    method.show(kind);
    beta.show(at, BETAS);
    when.show(shown, Array.from({ length: UPDATES / 10 + 1 }, (_, i) => 10 * i));
    always.show(sure);
    const [best, policy] = [optimum(at), policies[shown]];
    const x = (kl) => LEFT + (Math.min(kl, MOST) * (WIDE - LEFT - 12)) / MOST;
    const y = (r) => HIGH - 30 - r * (HIGH - 48);
    const place = (p) => `${x(divergence(p)).toFixed(1)} ${y(reward(p)).toFixed(1)}`;
    const path = (all) => all.map((p, n) => `${n ? "L" : "M"}${place(p)}`).join("");
    const write = (left, up, text, options = {}) => svg("text", { x: left, y: up, ...options }, text);
    const dot = (p, name) => svg("circle", { class: name, r: 5, cx: x(divergence(p)).toFixed(1), cy: y(reward(p)).toFixed(1) });
    const line = Array.from({ length: 81 }, (_, i) => optimum(100 * 0.9 ** i));
    plane.replaceChildren(
      ...[0, 0.5, 1].flatMap((r) => [svg("path", { class: "grid", d: `M${LEFT} ${y(r)}H${WIDE - 12}` }), write(LEFT - 5, y(r) + 4, String(r), { "text-anchor": "end" })]),
      ...[0, 1, 2, 3].map((kl) => write(x(kl), HIGH - 12, String(kl), { "text-anchor": "middle" })),
      write(WIDE - 12, HIGH, "nats", { "text-anchor": "end" }), write(LEFT, 12, "reward"),
      svg("path", { class: "best", d: path(line) }), svg("path", { class: "now", d: path(policies.slice(0, shown + 1)) }),
      dot(best, "best"), dot(policy, "now"));
    plane.setAttribute("aria-label", `The optimum at ${divergence(best).toFixed(2)} nats with a reward of ${reward(best).toFixed(2)}; the policy at ${divergence(policy).toFixed(2)} nats with ${reward(policy).toFixed(2)}`);
    const row = (name, p) => html("div", { class: "beta-row" }, html("div", { class: "track" }, html("div", { class: `bar ${name}`, style: `width: ${(100 * p).toFixed(2)}%` })), html("span", {}, percent(p)));
    list.replaceChildren(...ANSWERS.map(({ text, rho, paid }, i) =>
      html("li", {}, html("span", {}, html("b", { class: "mono" }, text), ` ${paid}`), row("start", rho), row("best", best[i]), row("now", policy[i]))));
    sentence.textContent = describe(kind, at, policy, shown);
  });
}

export default { render };
