// Controls: each returns its label and a function that shows a value.

// A slider over a list of values; the list may change with every `show`.
function slider(name, change, say = (value) => value.toLocaleString("en")) {
  let values = [];
  const input = html("input", { type: "range", min: 0, step: 1, oninput: () => change(values[input.valueAsNumber]) });
  const said = html("span");
  const show = (value, list) => {
    values = list;
    input.max = list.length - 1;
    input.value = list.indexOf(value);
    input.disabled = list.length < 2;
    said.textContent = say(value) + (input.disabled ? ", the only possible value" : "");
    input.setAttribute("aria-valuetext", said.textContent);
  };
  return { label: field(name, input, said), show };
}

// Options are pairs of a value and what is read; the value "" can be shown, but not chosen.
function select(name, options, change) {
  const input = html("select", { onchange: () => change(input.value) },
    ...options.map(([value, read]) => html("option", { value, hidden: !value, disabled: !value }, read)));
  return { label: field(name, input), show: (value) => void (input.value = value) };
}

function toggle(name, change) {
  const input = html("input", { type: "checkbox", onchange: () => change(input.checked) });
  return { label: html("label", { class: "toggle" }, input, html("span", {}, name)), show: (value) => void (input.checked = value) };
}

const dials = (...sliders) => html("div", { class: "dials" }, ...sliders.map(({ label }) => label));

// Sorted, each once: the steps of a slider and the value it stands at.
const steps = (list, value) => [...new Set([...list, value])].sort((a, b) => a - b);
const powers = (from, to) => Array.from({ length: Math.log2(to / from) + 1 }, (_, i) => from * 2 ** i);
