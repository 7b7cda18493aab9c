// A threshold and what it costs: pure functions first, then the picture.

export const probability = (margin, temperature) => 1 / (1 + Math.exp(-margin / temperature));

// What becomes of the mails if those of at least `percentage` per cent are rejected; a spam let through costs 1.
export function decide(margins, labels, percentage, temperature, lost) {
  const found = { caught: 0, lost: 0, through: 0, delivered: 0 };
  margins.forEach((margin, i) => {
    const rejected = probability(margin, temperature) >= percentage / 100;
    found[rejected ? (labels[i] ? "caught" : "lost") : labels[i] ? "through" : "delivered"] += 1;
  });
  return { ...found, cost: found.lost * lost + found.through };
}

export const THRESHOLDS = Array.from({ length: 101 }, (_, i) => i);

// The cost at each threshold.
export const curve = (margins, labels, temperature, lost) =>
  THRESHOLDS.map((t) => decide(margins, labels, t, temperature, lost).cost);

// What is to be seen, in words.
export function describe(found, costs, percentage) {
  const least = Math.min(...costs);
  const best = costs.indexOf(least);
  const end = found.cost === least ? "No threshold of a whole per cent costs less." : `The least cost is ${least}, at ${best} %.`;
  return `At ${percentage} %, ${many(found.lost, "ham mail")} lost and ${many(found.through, "spam mail")} let through: the cost is ${found.cost}. ${end}`;
}

const [WIDE, HIGH] = [340, 170];
const TEMPERATURES = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4];
const LOST = [1, 2, 5, 10, 20, 50, 100];

function render({ model, el }) {
  const change = (name) => (value) => put(model, name, value);
  const threshold = slider("Threshold", change("threshold"), (x) => `${x} %`);
  const temperature = slider("Temperature", change("temperature"));
  const lost = slider("Cost of a lost mail", change("lost"));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "costs" });
  const cells = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Threshold dial", [dials(threshold, temperature, lost)], [drawing, cells]);
  question.textContent = "Predict: where is the cost least if a lost mail costs as much as ten spam mails let through? Decide, then move the threshold.";

  return follow(model, ["threshold", "temperature", "lost"], () => {
    const [margins, labels, t, heat, weight] = ["margins", "labels", "threshold", "temperature", "lost"].map((name) => model.get(name));
    threshold.show(t, steps(THRESHOLDS, t));
    temperature.show(heat, steps(TEMPERATURES, heat));
    lost.show(weight, steps(LOST, weight));
    const costs = curve(margins, labels, heat, weight);
    const found = decide(margins, labels, t, heat, weight);
    const most = Math.max(1, ...costs);
    const x = (value) => 10 + (value * (WIDE - 20)) / 100;
    const y = (cost) => HIGH - 26 - ((HIGH - 46) * Math.log1p(cost)) / Math.log1p(most);
    drawing.replaceChildren(
      svg("path", { d: `M10 ${HIGH - 26}H${WIDE - 10}` }),
      svg("path", { class: "curve", d: costs.map((cost, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(cost).toFixed(1)}`).join("") }),
      svg("path", { class: "here", d: `M${x(t)} 16V${HIGH - 26}` }),
      svg("circle", { cx: x(t), cy: y(found.cost), r: 5 }),
      svg("text", { x: 10, y: 12 }, "cost, on a logarithmic axis"),
      svg("text", { x: WIDE - 10, y: HIGH - 8, "text-anchor": "end" }, "threshold, 0 to 100 %"),
    );
    cells.textContent = `Ham: ${found.delivered} delivered, ${found.lost} lost. Spam: ${found.caught} caught, ${found.through} let through.`;
    drawing.setAttribute("aria-label", `The cost is ${found.cost} at a threshold of ${t} per cent`);
    sentence.textContent = describe(found, costs, t);
  });
}

export default { render };
