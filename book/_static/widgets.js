// Brings the widgets of a built page to life: reads the state that the build wrote into the page and calls
// each widget's own `render`. No request leaves the site, so it also works from a file.
(() => {
  const TYPE = "application/vnd.jupyter.widget-";
  // Where this file lies: a widget finds the site's own data beside it.
  const STATIC = new URL(".", document.currentScript?.src || document.baseURI).href;

  // The part of a notebook's model that a widget uses; nothing is saved, because no kernel listens.
  function makeModel(state) {
    const values = { ...state, _static: STATIC };
    const listeners = new Map();
    const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
    return {
      get: (name) => values[name],
      set(name, value) {
        if (values[name] === value) return;
        values[name] = value;
        of(`change:${name}`).forEach((listener) => listener());
      },
      on: (event, listener) => void of(event).add(listener),
      off: (event, listener) => void of(event).delete(listener),
      save_changes() {},
    };
  }

  async function start(script, models) {
    const el = document.createElement("div");
    script.after(el);
    try {
      const { model, state } = models[JSON.parse(script.textContent).model_id];
      const style = document.createElement("style");
      style.textContent = state._css ?? "";
      document.head.append(style);
      const address = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
      const { default: widget } = await import(address);
      URL.revokeObjectURL(address);
      await widget.render({ model, el });
    } catch (error) {
      el.textContent = `This widget could not start (${error.message}); the text goes on without it.`;
    }
  }

  function startAll() {
    const models = {};
    for (const script of document.querySelectorAll(`script[type="${TYPE}state+json"]`))
      for (const [id, { state }] of Object.entries(JSON.parse(script.textContent).state))
        models[id] = { state, model: makeModel(state) };
    for (const script of document.querySelectorAll(`script[type="${TYPE}view+json"]`)) start(script, models);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
