// Byte-level BPE: pure functions first, then the picture.

export const LIMIT = 2000; // characters

export const split = (text) => text.match(GPT2) ?? [];

// A pair is kept as one number, so that the smaller number is the smaller pair (left id first).
const BASE = 2 ** 16;
const unpack = (pair) => [Math.floor(pair / BASE), pair % BASE];

export function countPairs(words) {
  const counts = new Map();
  for (const ids of words)
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = ids[i] * BASE + ids[i + 1];
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
  return counts;
}

// Pairs as [pair, count]: the most frequent first, of equals the smaller pair.
export const ranked = (counts) => [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);

// Replaces the pair by `id`, left to right, without overlap.
export function merge(ids, left, right, id) {
  const merged = [];
  for (let i = 0; i < ids.length; i++)
    if (ids[i] === left && ids[i + 1] === right) {
      merged.push(id);
      i++;
    } else merged.push(ids[i]);
  return merged;
}

// All states of the training, from the bytes on: the words as ids, their ranked pairs, the merge that led there.
export function train(text, merges) {
  const encoder = new TextEncoder();
  let words = split(text).map((chunk) => [...encoder.encode(chunk)]);
  const states = [{ words, pairs: ranked(countPairs(words)), merge: null }];
  for (let id = 256; id < 256 + merges && states.at(-1).pairs.length; id++) {
    const [pair, count] = states.at(-1).pairs[0];
    const [left, right] = unpack(pair);
    words = words.map((ids) => merge(ids, left, right, id));
    states.push({ words, pairs: ranked(countPairs(words)), merge: { left, right, id, count } });
  }
  return states;
}

// The bytes of every token that the states know.
export function vocabulary(states) {
  const bytes = Array.from({ length: 256 }, (_, byte) => [byte]);
  for (const { merge: made } of states.slice(1)) bytes.push([...bytes[made.left], ...bytes[made.right]]);
  return bytes;
}

// What the step shows, in words.
export function describe(states, step, wanted) {
  const { words, merge: made, pairs } = states[step];
  if (!words.length) return "The text is empty. Type some to see its bytes.";
  const tokens = words.flat().length;
  const bytes = states[0].words.flat().length;
  const name = (id) => `‘${spell(vocabulary(states)[id])}’`;
  const what = made
    ? `Merge ${step} joins ${name(made.left)} + ${name(made.right)} (seen ${many(made.count, "time")}) into token ` +
      `${made.id}; the text is now ${many(tokens, "token")}, ${(bytes / tokens).toFixed(1)} bytes per token.`
    : `No merge yet: the text is ${many(bytes, "byte")}, and every byte is a token.`;
  return what + (!pairs.length && step < wanted ? " No pair is left to merge." : "");
}

const SHOWN = 8; // bars

function render({ model, el }) {
  let text, merges, states, spelled;
  const area = html("textarea", { rows: 3, spellcheck: "false", oninput: () => retrain(area.value) });
  const slider = html("input", { type: "range", min: 0, step: 1, oninput: () => go(slider.valueAsNumber) });
  const made = html("span");
  const retrain = (words) => {
    put(model, "step", 0); // the merges so far were learned from another text
    put(model, "text", words);
  };
  const go = (step) => put(model, "step", Math.min(Math.max(step, 0), states.length - 1));
  const back = html("button", { type: "button", onclick: () => go(slider.valueAsNumber - 1) }, "Back");
  const forward = html("button", { type: "button", onclick: () => go(slider.valueAsNumber + 1) }, "Merge next");
  const chips = html("div", { class: "chips mono scroll", dir: "ltr", tabindex: 0, role: "group", "aria-label": "Your text as tokens" });
  const bars = html("ol", { class: "bars pairs", "aria-label": "Most frequent pairs" });
  const list = html("ol", { class: "merges mono", "aria-label": "Merges so far" });
  const listTitle = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Merge stepper",
    [field("Your text", area), field("Merges made", slider, made), html("div", { class: "buttons" }, back, forward)],
    [chips, html("details", {}, html("summary", {}, "Show the pair counts; the first pair is next"), bars), listTitle, list]);
  question.textContent = "Predict: which pair will be merged next? Decide before you press ‘Merge next’.";

  return follow(model, ["text", "merges", "step"], () => {
    if (model.get("text") !== text || model.get("merges") !== merges) {
      [text, merges] = [model.get("text"), model.get("merges")];
      states = train([...text].slice(0, LIMIT).join(""), merges);
      spelled = vocabulary(states).map(spell);
      if (area.value !== text) area.value = text;
    }
    const last = states.length - 1;
    const step = Math.min(model.get("step"), last);
    const { words, pairs, merge: newest } = states[step];
    slider.max = last;
    slider.value = step;
    made.textContent = `${step} of ${last}`;
    // Marked, not disabled: a disabled button loses the focus under the reader's fingers.
    back.setAttribute("aria-disabled", step === 0);
    forward.setAttribute("aria-disabled", step === last);

    const chip = (id) => html("span", { title: `token ${id}`,
      class: `chip${id === newest?.id ? " newest" : id > 255 ? " merged" : ""}` }, spelled[id]);
    chips.replaceChildren(...words.map((ids) => html("span", { class: "chunk" }, ...ids.map(chip))));
    bars.replaceChildren(...pairs.slice(0, SHOWN).map(([pair, count]) =>
      bar(unpack(pair).map((id) => spelled[id]).join(" + "), count / pairs[0][1], count)));
    listTitle.textContent = step ? "Merges so far" : "Merges so far: none";
    list.replaceChildren(...states.slice(1, step + 1).map(({ merge: { left, right, id } }) =>
      html("li", {}, `${spelled[left]} + ${spelled[right]} → `, chip(id))));
    const length = [...text].length;
    sentence.textContent = describe(states, step, merges) +
      (length > LIMIT ? ` Only the first ${many(LIMIT, "character")} of your ${length.toLocaleString("en")} are used.` : "");
  });
}

export default { render };
