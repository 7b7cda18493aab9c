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

// What is to be seen, in words; where the cost is least is told only when a slider has `moved`.
export function describe(found, costs, percentage, moved) {
  const said = `At ${percentage} %, ${many(found.lost, "ham mail")} lost and ${many(found.through, "spam mail")} let through: the cost is ${found.cost}.`;
  if (!moved) return `${said} Move a slider to see the other thresholds.`;
  const least = Math.min(...costs);
  const everything = `delivering everything costs ${found.caught + found.through}`;
  if (found.cost === least) return `${said} No threshold of a whole per cent costs less; ${everything}.`;
  return `${said} The least cost is ${least}, at ${costs.indexOf(least)} %; ${everything}.`;
}

const [WIDE, HIGH, LEFT, TOP, BOTTOM] = [340, 190, 40, 24, 150];
const TEMPERATURES = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4];
const LOST = [1, 2, 5, 10, 20, 50, 100];

function render({ model, el }) {
  let moved = false;
  const change = (name) => (value) => {
    moved = true;
    put(model, name, value);
  };
  const threshold = slider("Threshold", change("threshold"), (x) => `${x} %`);
  const temperature = slider("Temperature", change("temperature"));
  const lost = slider("Cost of a lost ham", change("lost"));
  const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "costs" });
  const cells = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Threshold dial", [dials(threshold, temperature, lost)], [drawing, cells]);
  question.textContent =
    "Predict: at which threshold is the cost least? Does a cheaper lost ham move it up or down? What does the temperature do to the least cost? Decide, then move a slider.";

  return follow(model, ["threshold", "temperature", "lost"], () => {
    const [margins, labels, t, heat, weight] = ["margins", "labels", "threshold", "temperature", "lost"].map((name) => model.get(name));
    threshold.show(t, steps(THRESHOLDS, t));
    temperature.show(heat, steps(TEMPERATURES, heat));
    lost.show(weight, steps(LOST, weight));
    const costs = curve(margins, labels, heat, weight);
    const found = decide(margins, labels, t, heat, weight);
    const spam = found.caught + found.through;
    const most = Math.max(1, spam, ...costs);
    const x = (value) => LEFT + (value * (WIDE - LEFT - 20)) / 100;
    const y = (cost) => BOTTOM - ((BOTTOM - TOP) * Math.log1p(cost)) / Math.log1p(most);
    const least = Math.min(...costs);
    const best = costs.indexOf(least);
    const marks = [10, 100, 1000, 10000, 100000].filter((cost) => cost <= most);
    drawing.replaceChildren(
      svg("path", { d: `M${LEFT} ${BOTTOM}H${x(100)}` }),
      ...[0, 25, 50, 75, 100].map((value) => svg("text", { x: x(value), y: BOTTOM + 15, "text-anchor": "middle" }, value)),
      ...marks.map((cost) => svg("path", { d: `M${LEFT} ${y(cost).toFixed(1)}H${x(100)}` })),
      ...[0, ...marks].map((cost) => svg("text", { x: LEFT - 5, y: y(cost) + 4, "text-anchor": "end" }, cost.toLocaleString("en"))),
      svg("path", { class: "everything", d: `M${LEFT} ${y(spam).toFixed(1)}H${x(100)}` }),
      svg("text", { class: "everything", x: LEFT + 4, y: y(spam) + 13 }, "deliver everything"),
      ...(moved
        ? [
            svg("path", { class: "curve", d: costs.map((cost, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(cost).toFixed(1)}`).join("") }),
            svg("circle", { class: "least", cx: x(best), cy: y(least), r: 6 }),
            svg("text", { x: x(best) + (best > 50 ? 4 : -4), y: y(least) + 19, "text-anchor": best > 50 ? "end" : "start" }, `least: ${least}`),
          ]
        : []),
      svg("path", { class: "here", d: `M${x(t)} ${TOP - 6}V${BOTTOM}` }),
      svg("circle", { class: "now", cx: x(t), cy: y(found.cost), r: 4 }),
      svg("text", { x: 4, y: 12 }, "cost, on a logarithmic axis"),
      svg("text", { x: x(50), y: HIGH - 8, "text-anchor": "middle" }, "threshold, %"),
    );
    cells.textContent = `Ham: ${found.delivered} delivered, ${found.lost} lost. Spam: ${found.caught} caught, ${found.through} let through.`;
    drawing.setAttribute("aria-label", `The cost is ${found.cost} at a threshold of ${t} per cent`);
    sentence.textContent = describe(found, costs, t, moved);
  });
}

export default { render };
