// A policy of 18 logits learns from rewards: pure functions first, then the picture.

export const LETTERS = "aenot■";
const [PLACES, V, END] = [3, 6, 5];
export const UPDATES = 300;

// The logits before learning: every place has a favourite, and the right one is not far behind.
export const START = [[0, 1, 0, 0.5, 0, 0], [0, 0, 0, 0, 1.5, 0], [0, 0, 0, 0, 0, 1.5]];

export const softmax = (logits) => {
  const highest = Math.max(...logits);
  const powers = logits.map((z) => Math.exp(z - highest));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / total);
};

// Ids up to the end token, if it is sampled.
export function draw(probabilities, random) {
  const ids = [];
  for (const p of probabilities) {
    let left = random();
    let id = 0;
    while (id < V - 1 && left >= p[id]) left -= p[id++];
    ids.push(id);
    if (id === END) break;
  }
  return ids;
}

const written = (ids) => ids.map((id) => LETTERS[id]).join("");
export const truth = (ids) => Number(written(ids) === "ot■");
export const proxy = (ids) => ids.filter((id) => LETTERS[id] === "o").length / PLACES;

// The expected value of a function of the completion, by adding up all 216 outcomes.
export function expected(probabilities, value) {
  let sum = 0;
  const visit = (ids, chance) => {
    if (ids.length === PLACES || ids.at(-1) === END) sum += chance * value(ids);
    else probabilities[ids.length].forEach((p, id) => visit([...ids, id], chance * p));
  };
  visit([], 1);
  return sum;
}

export function advantages(rewards, baseline, scale) {
  const mean = rewards.reduce((a, b) => a + b) / rewards.length;
  const std = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / (rewards.length - 1));
  return rewards.map((r) => (r - (baseline ? mean : 0)) / (scale ? std + 1e-4 : 1));
}

// The gradient of the mean gain of a group, less beta times k2 at each token.
export function gradient(probabilities, reference, group, gains, beta) {
  const found = START.map((row) => row.map(() => 0));
  group.forEach((ids, i) =>
    ids.forEach((id, place) => {
      const weight = (gains[i] - beta * Math.log(probabilities[place][id] / reference[place][id])) / group.length;
      probabilities[place].forEach((p, other) => (found[place][other] += weight * (Number(other === id) - p)));
    }));
  return found;
}

// A run: before each update the probabilities, the group that was written, its rewards and advantages; then the end.
export function run({ group: G, rate, beta, baseline, scale, planted, seed }) {
  const random = generator(seed);
  const reference = START.map(softmax);
  const pay = planted ? proxy : truth;
  let table = START;
  return Array.from({ length: UPDATES + 1 }, () => {
    const probabilities = table.map(softmax);
    const group = Array.from({ length: G }, () => draw(probabilities, random));
    const rewards = group.map(pay);
    const gains = advantages(rewards, baseline, scale);
    const change = gradient(probabilities, reference, group, gains, beta);
    table = table.map((row, place) => row.map((z, id) => z + rate * change[place][id]));
    return { probabilities, group, rewards, gains, paid: expected(probabilities, pay), right: expected(probabilities, truth) };
  });
}

// The share of the first `n` groups whose completions have one reward.
export const equal = (steps, n) => (n ? steps.slice(0, n).filter(({ rewards }) => new Set(rewards).size === 1).length / n : 0);

// What is seen at an update, in words.
export function describe(steps, shown, planted) {
  const here = steps[shown];
  const best = steps.slice(0, shown + 1).reduce((a, b) => (b.right > a.right ? b : a));
  const right = `it writes ot■ in ${percent(here.right)} of cases`;
  if (planted)
    return `After ${many(shown, "update")} the policy earns ${here.paid.toFixed(2)} of the planted reward, and ${right}, ${
      here === best || best.right - here.right < 0.0005 ? "as often as ever before" : `down from ${percent(best.right)} after ${many(steps.indexOf(best), "update")}`}.`;
  if (!shown) return `After 0 updates ${right}.`;
  return `After ${many(shown, "update")} ${right}; ${percent(equal(steps, shown))} of the groups had one reward for all.`;
}

const [LEFT, WIDE, HIGH] = [30, 340, 190];

function render({ model, el }) {
  const names = ["group", "rate", "beta", "baseline", "scale", "planted", "seed"];
  const change = (name) => (value) => put(model, name, value);
  const dial = {
    group: slider("Group", change("group"), (n) => many(n, "completion")),
    rate: slider("Rate", change("rate"), String),
    beta: slider("β", change("beta"), String),
    shown: slider("Shown after", change("shown"), (n) => many(n, "update")),
  };
  const baseline = toggle("less the group's mean", change("baseline"));
  const scale = toggle("divided by the group's std", change("scale"));
  const plant = html("button", { type: "button", onclick: () => put(model, "planted", !model.get("planted")) });
  const again = html("button", { type: "button", onclick: () => put(model, "seed", (model.get("seed") + 1) % 1000) }, "Sample others");
  const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "policy-curve" });
  const cells = svg("svg", { viewBox: "0 0 200 112", role: "img", class: "policy-table" });
  const list = html("ul", { class: "policy-group" });
  const note = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Policy playground",
    [dials(...Object.values(dial)), baseline.label, scale.label, html("div", { class: "buttons" }, plant, again)],
    [html("div", { class: "pair" },
      html("div", { class: "part" }, html("p", { class: "note" }, "Expected, over all 216 outcomes"), drawing),
      html("div", { class: "part" }, html("p", { class: "note" }, "Probability of each token at each place, in %"), cells, note, list))]);
  question.textContent = "Predict: will more groups of two than of eight have one reward for all? And what will the policy write when each o pays a third? Decide, then move “Shown after”.";

  let steps, key;
  return follow(model, [...names, "shown"], () => {
    const settings = Object.fromEntries(names.map((name) => [name, model.get(name)]));
    if (key !== JSON.stringify(settings)) [key, steps] = [JSON.stringify(settings), run(settings)];
    const shown = Math.min(Math.max(model.get("shown"), 0), UPDATES);
    const { planted } = settings;
    dial.group.show(settings.group, [2, 4, 8, 16, 32, 64]);
    dial.rate.show(settings.rate, [0.03, 0.1, 0.3, 1, 3]);
    dial.beta.show(settings.beta, [0, 0.03, 0.1, 0.3, 1]);
    dial.shown.show(shown, Array.from({ length: UPDATES / 5 + 1 }, (_, i) => 5 * i));
    baseline.show(settings.baseline);
    scale.show(settings.scale);
    plant.textContent = planted ? "Pay for the right answer" : "Plant a hackable reward";
    const x = (n) => LEFT + (n * (WIDE - LEFT - 8)) / UPDATES;
    const y = (share) => HIGH - 24 - share * (HIGH - 40);
    const line = (kind) => steps.slice(0, shown + 1).map((step, n) => `${n ? "L" : "M"}${x(n).toFixed(1)} ${y(step[kind]).toFixed(1)}`).join("");
    const write = (at, up, text, options = {}) => svg("text", { x: at, y: up, ...options }, text);
    drawing.replaceChildren(
      ...[0, 0.5, 1].flatMap((share) => [svg("path", { d: `M${LEFT} ${y(share)}H${WIDE - 8}` }), write(LEFT - 5, y(share) + 4, String(share), { "text-anchor": "end" })]),
      svg("path", { class: "here", d: `M${x(shown)} ${y(1)}V${y(0)}` }),
      ...(planted ? [svg("path", { class: "paid", d: line("paid") })] : []),
      svg("path", { class: "right", d: line("right") }),
      write(LEFT, HIGH - 6, "0 updates"), write(WIDE - 8, HIGH - 6, `${UPDATES}`, { "text-anchor": "end" }),
      ...(planted ? [write(LEFT + 6, 12, "planted reward (dashed)", { class: "paid" })] : []),
      write(WIDE - 8, 12, "writes ot■", { class: "right", "text-anchor": "end" }));
    const here = steps[shown];
    drawing.setAttribute("aria-label", `Probability of the right completion by update, ${percent(here.right)} after ${shown}`);
    cells.replaceChildren(...[...LETTERS].map((letter, id) => write(38 + 28 * id, 14, letter, { class: "mono" })),
      ...here.probabilities.flatMap((row, place) => [write(8, 40 + 30 * place, String(place + 1)),
        ...row.flatMap((p, id) => [
          svg("rect", { x: 25 + 28 * id, y: 22 + 30 * place, width: 26, height: 27, "fill-opacity": p.toFixed(3) }),
          write(38 + 28 * id, 40 + 30 * place, String(Math.round(100 * p)), { class: p > 0.55 ? "on" : "" })])]));
    cells.setAttribute("aria-label", "Probabilities in per cent, a row for each place");
    note.textContent = `The next group, rewards and advantages${here.group.length > 8 ? " of the first eight" : ""}:`;
    list.replaceChildren(...here.group.slice(0, 8).map((ids, i) => {
      const gain = here.gains[i];
      return html("li", {}, html("b", { class: "mono" }, written(ids)), ` ${here.rewards[i].toFixed(2)}`, html("span", { class: gain > 0 ? "up" : gain < 0 ? "down" : "" }, ` ${gain < 0 ? "−" : "+"}${Math.abs(gain).toFixed(2)}`));
    }));
    sentence.textContent = describe(steps, shown, planted);
  });
}

export default { render };
