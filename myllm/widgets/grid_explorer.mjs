// Numbers on a line and the grid they are rounded to: pure functions first, then the picture.

const SCALE = 32; // bits of a scale
const ZERO = 8; // bits of a zero point

// Consecutive groups, each with its grid and its numbers' codes and rounded values.
export function quantized(weights, bits, symmetric, group) {
  return Array.from({ length: weights.length / group }, (_, i) => {
    const numbers = weights.slice(i * group, (i + 1) * group).map(Math.fround);
    const grid = gridOf(Math.min(...numbers), Math.max(...numbers), bits, symmetric);
    const codes = numbers.map((x) => codeOf(x, grid));
    return { grid, numbers, codes, values: codes.map((code) => valueOf(code, grid)) };
  });
}

// Root mean square and greatest error, and the bits of all that is stored.
export function measure(groups, bits, symmetric) {
  const errors = groups.flatMap(({ numbers, values }) => numbers.map((x, i) => values[i] - x));
  const square = errors.reduce((sum, e) => sum + e * e, 0) / errors.length;
  const codes = bits * errors.length;
  const scales = groups.length * (symmetric ? SCALE : SCALE + ZERO);
  return { rms: Math.sqrt(square), most: Math.max(...errors.map(Math.abs)), codes, scales, each: (codes + scales) / errors.length };
}

const digits = (x) => x.toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");

// What is to be seen, in words.
export function describe(groups, bits, symmetric) {
  const { rms, most, codes, scales, each } = measure(groups, bits, symmetric);
  const found = groups.map(({ grid }) => grid.step);
  const [least, widest] = [Math.min(...found), Math.max(...found)];
  const taken = groups.reduce((sum, { codes: used }) => sum + new Set(used).size, 0);
  const grids = groups.length === 1 ? `One ${symmetric ? "symmetric" : "asymmetric"} grid with the step ${digits(least)}`
    : `${groups.length} ${symmetric ? "symmetric" : "asymmetric"} grids with steps from ${digits(least)} to ${digits(widest)}`;
  const total = groups.reduce((sum, { grid }) => sum + grid.most - grid.least + 1, 0);
  return `${grids}: the root mean square error is ${digits(rms)}, the greatest ${digits(most)}, and no error can exceed half a step, ${digits(widest / 2)}. ` +
    `The numbers take ${taken} of the ${total} grid points. Stored: ${codes} bits of codes and ${scales} of ${symmetric ? "scales" : "scales and zero points"}, ${each.toFixed(1)} bits a number instead of 32.`;
}

const [WIDE, EDGE] = [340, 12];
const MANY = 80; // ticks that can still be told apart
const divisors = (n) => Array.from({ length: n }, (_, i) => n - i).filter((d) => n % d === 0);

function render({ model, el }) {
  const [reach, count] = [model.get("reach"), model.get("weights").length];
  const fine = 10 ** Math.floor(Math.log10(reach / 40)); // the finest move of a number
  const far = Math.round(reach / fine);
  const nearest = (x) => Number((Math.max(-far, Math.min(far, Math.round(x / fine))) * fine).toPrecision(6));
  const RANGE = Array.from({ length: 2 * far + 1 }, (_, i) => nearest((i - far) * fine));
  const change = (name) => (value) => put(model, name, value);
  const setWeight = (i, x) => put(model, "weights", model.get("weights").map((old, j) => (i === j ? x : old)));
  const bits = slider("Bits", change("bits"));
  const group = select("One scale for", divisors(count).map((n) => [String(n), n === count ? `all ${n}` : n === 1 ? "each number" : `each group of ${n}`]), (n) => put(model, "group", Number(n)));
  const symmetric = toggle("symmetric", change("symmetric"));
  const which = select("Number", Array.from({ length: count }, (_, i) => [String(i), `number ${i + 1}`]), (i) => put(model, "chosen", Number(i)));
  const value = slider("Its value", (x) => setWeight(model.get("chosen"), x), digits);
  const x = (number) => WIDE / 2 + ((WIDE / 2 - EDGE) * number) / reach;

  let dragged = null;
  const pointed = (event) => {
    const box = drawing.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * WIDE, ((event.clientY - box.top) / box.height) * high];
  };
  let high = 1;
  let rowHigh = 1;
  const drawing = svg("svg", {
    role: "img", class: "gridlines",
    onpointerdown: (event) => {
      const [px, py] = pointed(event);
      const size = model.get("group");
      const row = Math.max(0, Math.min(count / size - 1, Math.floor(py / rowHigh)));
      const near = (i) => Math.abs(x(model.get("weights")[i]) - px);
      dragged = Array.from({ length: size }, (_, i) => row * size + i).reduce((a, b) => (near(b) < near(a) ? b : a));
      if (near(dragged) > 16) return void (dragged = null);
      drawing.setPointerCapture(event.pointerId);
      put(model, "chosen", dragged);
    },
    onpointermove: (event) => dragged !== null && setWeight(dragged, nearest(((pointed(event)[0] - WIDE / 2) / (WIDE / 2 - EDGE)) * reach)),
    onpointerup: () => { dragged = null; },
    onpointercancel: () => { dragged = null; },
  });
  const key = (kind, said) => html("span", {}, html("span", { class: `swatch ${kind}` }), ` ${said}`);
  const note = html("p", { class: "note keys" }, key("before", "numbers; drag one"), key("corrected", "where they are rounded to"), html("span", {}, "ticks or shading: the points of the grid"));
  const { question, sentence } = frame(el, "Grid explorer", [group.label, which.label, symmetric.label, dials(bits, value)], [drawing, note]);
  question.textContent = "Predict: what happens to the others when one number becomes much larger? Decide, then drag it.";

  return follow(model, ["weights", "bits", "symmetric", "group", "chosen"], () => {
    const [weights, n, even, size, chosen] = ["weights", "bits", "symmetric", "group", "chosen"].map((name) => model.get(name));
    const groups = quantized(weights, n, even, size);
    bits.show(n, [2, 3, 4, 5, 6, 7, 8]);
    group.show(String(size));
    symmetric.show(even);
    which.show(String(chosen));
    value.show(weights[chosen], steps(RANGE, weights[chosen]));
    rowHigh = groups.length > 4 ? 40 : 64;
    high = rowHigh * groups.length + 14;
    drawing.setAttribute("viewBox", `0 0 ${WIDE} ${high}`);
    drawing.replaceChildren(...groups.flatMap(({ grid, numbers, codes, values }, row) => {
      const [top, y] = [rowHigh * row + 12, rowHigh * (row + 1) - 14];
      const places = Array.from({ length: grid.most - grid.least + 1 }, (_, i) => x(valueOf(grid.least + i, grid)));
      const dense = places.length > MANY && (places.at(-1) - places[0]) / places.length < 2.5;
      return [
        svg("path", { class: "rule", d: `M${EDGE / 2} ${y}H${WIDE - EDGE / 2}` }),
        dense ? svg("path", { class: "dense", d: `M${places[0]} ${y}H${places.at(-1)}` })
          : svg("path", { class: "tick", d: places.map((place) => `M${place.toFixed(2)} ${y - 6}v12`).join("") }),
        svg("path", { class: "zero", d: `M${x(0)} ${y - 9}v18` }),
        ...numbers.map((number, i) => svg("path", { class: "way", d: `M${x(number)} ${top}L${x(values[i])} ${y}` })),
        ...[...new Set(codes)].map((code) => svg("circle", { class: "corrected", cx: x(valueOf(code, grid)), cy: y, r: 4 })),
        ...numbers.map((number, i) => svg("circle", { class: row * size + i === chosen ? "before chosen" : "before", cx: x(number), cy: top, r: row * size + i === chosen ? 6.5 : 4.5 })),
      ];
    }), svg("text", { x: x(0), y: high - 1, "text-anchor": "middle" }, "0"),
      svg("text", { x: 2, y: high - 1 }, digits(-reach)), svg("text", { x: WIDE - 2, y: high - 1, "text-anchor": "end" }, digits(reach)));
    drawing.setAttribute("aria-label", groups.map(({ numbers, values }) => numbers.map((number, i) => `${digits(number)} becomes ${digits(values[i])}`).join(", ")).join("; "));
    sentence.textContent = describe(groups, n, even);
  });
}

export default { render };
