// A map from our tensors to those of published files: pure functions first, then the picture.

// The lines of a family's map. Of each tensor: our shape, theirs as `whole`, whether it is transposed, and which of their
// rows (of their columns where it is transposed) are ours, `from` up to `to`. `group` are the parts with the same name;
// `heads` are those within which the rows are in another order.
export function lines(family, settings = MODELS[family]) {
  const table = NAMES[family];
  const parts = Object.entries(ours(settings));
  return parts.map(([part, leaves]) => {
    const theirs = table[part];
    const group = parts.filter(([other]) => table[other] === theirs);
    const at = group.findIndex(([other]) => other === part);
    const tensors = Object.entries(leaves).map(([leaf, shape]) => {
      const rows = (parts) => parts.reduce((sum, [, leaves]) => sum + leaves[leaf][0], 0);
      const whole = [rows(group), ...shape.slice(1)];
      const transposed = family === "gpt2" && leaf === "weight" && /\.c_\w+$/.test(theirs);
      const from = rows(group.slice(0, at));
      return { leaf, shape, whole: transposed ? whole.reverse() : whole, transposed, from, to: from + shape[0] };
    });
    const heads = family === "gguf" ? (part.endsWith("q_proj") && settings.H) || (part.endsWith("k_proj") && settings.K) || 0 : 0;
    return { part, theirs, group: group.map(([part]) => part), tensors, heads, tied: part === "lm_head" && !!settings.tied };
  });
}

// How many lines of the table are not LLaMA's.
export const differing = (lines) => lines.filter(({ part, theirs }) => LLAMA[part] !== theirs).length;

// How many tensors the file holds, and how many the Transformer has: those of a layer count once for each.
export function tensors(lines, { n_layer }) {
  const sum = (some) => some.reduce((n, { part, tensors }) => n + tensors.length * (part.startsWith("layers.") ? n_layer : 1), 0);
  return { file: sum(lines.filter(({ part, group, tied }) => !tied && part === group[0])), ours: sum(lines) };
}

const layer = (name, n = 0) => name.replace(".N.", `.${n}.`);
const shape = (numbers) => `(${numbers.join(", ")})`;
const NUMBERS = { 2: "two", 3: "three" };

// What happens on the way from the file to us.
export function marks({ part, theirs, group, tensors, heads, tied }) {
  if (tied) return ["tied, not in the file"];
  return [
    theirs === part ? "the same name" : theirs === `model.${part}` ? "only the prefix removed" : "renamed",
    group.length > 1 && `split into ${NUMBERS[group.length]}`,
    tensors[0].transposed && "transposed",
    heads && "rows reordered",
  ].filter(Boolean);
}

// The line in words; `known` are all lines of the family.
export function describe(line, known) {
  const { part, theirs, group, tensors: [first, bias], heads, tied } = line;
  const name = (tensor) => `${layer(part)}.${tensor.leaf} ${shape(tensor.shape)}`;
  if (tied) return `${name(first)} is not in the file: it is tied to embed_tokens.weight.`;
  const piece = (tensor, what) => (group.length > 1 ? `${what} ${tensor.from} to ${tensor.to - 1} of ` : "") +
    `${layer(theirs)}.${tensor.leaf} ${shape(tensor.whole)}`;
  const done = marks(line);
  const steps = [done.slice(0, -1).join(", "), done.at(-1)].filter(Boolean).join(" and ");
  const order = heads ? ` In each of its ${heads} heads the file stores our rows in the order 0, ${first.shape[0] / heads / 2}, 1, ${first.shape[0] / heads / 2 + 1}, and so on.` : "";
  const also = !bias ? "" : group.length > 1 ? ` Its bias ${shape(bias.shape)} is ${piece(bias, "numbers")}.` : ` Its bias ${shape(bias.shape)} is treated in the same way.`;
  const taken = known.find((other) => other.part !== part && other.theirs === LLAMA[part]);
  const other = known.find((other) => other.part !== part && theirs === LLAMA[other.part]);
  const careful = (taken ? ` Careful: here ${layer(taken.theirs)} is our ${layer(taken.part)}.` : "") +
    (other ? ` Careful: in LLaMA this name is our ${layer(other.part)}.` : "");
  return `${name(first)} is ${piece(first, first.transposed ? "columns" : "rows")}: ${steps}.${order}${also}${careful}`;
}

const ROLES = { q_proj: "query", k_proj: "key", v_proj: "value" };
const last = (name) => name.split(".").at(-1);

function render({ model, el }) {
  const family = select("Family", Object.entries(MODELS).map(([key, { name }]) => [key, name]), (key) => put(model, "family", key));
  const title = html("b");
  const map = html("div", { class: "keymap", role: "group", "aria-label": "Our parts and what the file calls them" });
  const count = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Key map", [family.label], [count, map]);
  question.textContent =
    "Predict: in which other family do the fewest names differ from LLaMA's, and in which do all differ? Decide, then choose.";

  const spelled = (name) => layer(name).split(/(?<=\.|_(?=layernorm))/).flatMap((piece) => [piece, html("wbr")]);
  const entry = (name, tensors, key, ...rest) => [html("span", { class: "mono" }, ...spelled(name)),
    html("span", { class: "note" }, ...tensors.map((tensor) => html("span", {}, `${tensor.leaf} ${shape(tensor[key])}`)), ...rest)];
  let built, known, cells;
  const choose = (part) => put(model, "part", part);
  map.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = known[known.findIndex(({ part }) => cells.get(part).button === event.target) + step];
    if (!next) return;
    choose(next.part);
    cells.get(next.part).button.focus();
  });

  function build(key) {
    known = lines(key);
    cells = new Map();
    title.textContent = `In the file of ${MODELS[key].preset}`;
    map.replaceChildren(html("b", {}, "Ours"), html("span"), title);
    for (const line of known) {
      const { part, theirs, group, tensors, tied } = line;
      const button = html("button", { type: "button", onclick: () => choose(part) }, ...entry(part, tensors, "shape"));
      map.append(button);
      if (part !== group[0]) {
        cells.set(part, { ...cells.get(group[0]), button, path: cells.get(group[0]).paths[group.indexOf(part)] });
        continue;
      }
      const paths = group.map((name, i) => svg("path", { class: ROLES[last(name)] ?? "plain", "stroke-dasharray": tied && "3 4",
        d: `M 0 ${i + 0.5} C 50 ${i + 0.5} 50 ${group.length / 2} 100 ${group.length / 2}` }));
      const rows = `grid-row: span ${group.length}`;
      const done = html("b", {}, marks(line).join(", "));
      const file = html("div", { class: tied ? "file tied" : "file", style: rows,
        onclick: () => choose(group[(group.indexOf(model.get("part")) + 1) % group.length]) },
        ...(tied ? [done] : entry(theirs, tensors, "whole", done)));
      map.append(svg("svg", { viewBox: `0 0 100 ${group.length}`, preserveAspectRatio: "none", "aria-hidden": "true", style: rows }, ...paths), file);
      cells.set(part, { button, file, paths, path: paths[0] });
    }
    const { file, ours } = tensors(known, MODELS[key]);
    count.textContent = `${differing(known)} of ${known.length} names differ from LLaMA's. ` +
      `Layer 0 stands for all ${MODELS[key].n_layer}: ${file} tensors in the file, ${ours} of ours.`;
  }

  return follow(model, ["family", "part"], () => {
    const [key, chosen] = [model.get("family"), model.get("part")];
    family.show(key);
    if (built !== key) build((built = key));
    const line = known.find(({ part }) => part === chosen);
    for (const { part, group } of known) {
      const { button, file, path } = cells.get(part);
      button.setAttribute("aria-pressed", part === chosen);
      path.classList.toggle("chosen", part === chosen);
      file.classList.toggle("chosen", group.includes(chosen));
    }
    sentence.textContent = line ? describe(line, known) : `${MODELS[key].preset} has no ${layer(chosen)}. Choose another part.`;
  });
}

export default { render };
