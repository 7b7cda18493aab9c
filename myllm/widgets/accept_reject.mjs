// Speculative decoding with one token: pure functions first, then the picture.

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

// Weights as a distribution; if all are 0, every token is equally likely.
export const normalized = (weights) => (sum(weights) > 0 ? weights.map((w) => w / sum(weights)) : weights.map(() => 1 / weights.length));

// The probability that a proposal is accepted.
export const acceptance = (p, q) => sum(p.map((x, i) => Math.min(x, q[i])));

// From what a token is sampled instead of a rejected one; p itself where nothing is left.
export function residual(p, q) {
  const rest = p.map((x, i) => Math.max(0, x - q[i]));
  return sum(rest) > 1e-12 ? rest.map((x) => x / sum(rest)) : p;
}

// How many tokens a pass of the model yields on average, if each of k proposals is accepted with this probability.
export const perPass = (alpha, k) => (alpha >= 1 ? k + 1 : (1 - alpha ** (k + 1)) / (1 - alpha));

// Seeded samples: what was proposed and accepted, and what was sampled after a rejection, counted by token.
export function simulate(p, q, n, seed) {
  const uniform = generator(seed);
  const pick = (weights) => {
    let u = uniform();
    const at = weights.findIndex((w) => (u -= w) < 0);
    return at < 0 ? weights.findLastIndex((w) => w > 0) : at;
  };
  const [accepted, replaced, rest] = [p.map(() => 0), p.map(() => 0), residual(p, q)];
  for (let i = 0; i < n; i++) {
    const x = pick(q);
    if (uniform() * q[x] < p[x]) accepted[x]++;
    else replaced[pick(rest)]++;
  }
  return { accepted, replaced };
}

// What is to be seen, in words.
export function describe(p, q, k) {
  const alpha = acceptance(p, q);
  const first = `A proposal is accepted with probability Σ min(p, q) = ${percent(alpha)}. `;
  const then = `With ${many(k, "proposal")} a pass, each accepted with this probability, a pass yields ${perPass(alpha, k).toFixed(2)} tokens on average.`;
  if (alpha > 1 - 1e-9) return `${first}The draft is the model: nothing is ever rejected. ${then}`;
  if (alpha < 1e-9) return `${first}The draft proposes what the model never says: every token comes from the model's own distribution. ${then}`;
  return first + then;
}

const letters = "abcdefgh";

function render({ model, el }) {
  const p = model.get("p");
  const inputs = p.map((_, i) => slider(`q of ${letters[i]}`, (w) => put(model, "weights", model.get("weights").map((old, j) => (i === j ? w : old))), (w) => w.toFixed(2)));
  const k = slider("Proposals", (n) => put(model, "k", n));
  const more = html("button", { type: "button", onclick: () => put(model, "draws", Math.min(20000, model.get("draws") + 1000)) }, "Sample 1,000 tokens");
  const none = html("button", { type: "button", onclick: () => put(model, "draws", 0) }, "Forget them");
  const list = html("ul", { class: "bars spans", "aria-label": "Where each token comes from" });
  const note = html("p", { class: "note" }, html("span", { class: "swatch both" }), " accepted: min(p, q)  ", html("span", { class: "swatch rest" }), " sampled after a rejection  ",
    html("span", { class: "swatch lost" }), " proposed and rejected");
  const { question, sentence } = frame(el, "Accept or reject", [dials(...inputs, k), html("div", { class: "buttons" }, more, none)], [note, list]);
  question.textContent = "Predict: which q is accepted least, and what comes out then? Decide, then move the sliders.";

  return follow(model, ["weights", "k", "draws"], () => {
    const q = normalized(model.get("weights"));
    const [alpha, rest, n] = [acceptance(p, q), residual(p, q), model.get("draws")];
    inputs.forEach((input, i) => input.show(model.get("weights")[i], steps(Array.from({ length: 21 }, (_, j) => j / 20), model.get("weights")[i])));
    k.show(model.get("k"), Array.from({ length: 16 }, (_, i) => i + 1));
    none.disabled = n === 0;
    more.disabled = n >= 20000;
    const { accepted, replaced } = simulate(p, q, n, 1);
    const top = Math.max(...p, ...q);
    const part = (share, kind) => html("div", { class: `bar ${kind}`, style: `width: ${(100 * share) / top}%` });
    list.replaceChildren(...p.map((x, i) => {
      const both = Math.min(x, q[i]);
      const counted = n ? `; ${(accepted[i] + replaced[i]).toLocaleString("en")} of ${n.toLocaleString("en")} samples` : "";
      return html("li", {}, html("p", { class: "head" }, html("span", {}, `${letters[i]}: p ${percent(x)}, q ${percent(q[i])}`), html("b", {}, `${percent(both + (1 - alpha) * rest[i])}${counted}`)),
        html("div", { class: "track" }, part(both, "both"), part((1 - alpha) * rest[i], "rest"), part(Math.max(0, q[i] - x), "lost")));
    }));
    sentence.textContent = describe(p, q, model.get("k")) + (n ? ` In ${n.toLocaleString("en")} samples, ${sum(accepted).toLocaleString("en")} were accepted.` : "");
  });
}

export default { render };
