// Brings the widgets of a built page to life: reads the state that the build wrote into the page and calls
// each widget's own `render`. No request leaves the site, so it also works from a file.
(() => {
  const TYPE = "application/vnd.jupyter.widget-";
  // Where this file lies: a widget finds the site's own data beside it.
  const STATIC = new URL(".", document.currentScript?.src || document.baseURI).href;

  // What a reader set in a widget is kept for this tab, and comes back with the page: on Back, and on a reload.
  const RETURNING = ["back_forward", "reload"].includes(performance.getEntriesByType("navigation")[0]?.type);
  const PREFIX = `myllm-widget ${location.pathname}`;

  function remembered(key) {
    try {
      return (RETURNING && JSON.parse(sessionStorage.getItem(key))) || {};
    } catch {
      return {}; // no storage, or not ours
    }
  }

  function remember(key, chosen) {
    try {
      sessionStorage.setItem(key, JSON.stringify(chosen));
    } catch {
      // a browser that keeps nothing, or a full store: the widget works all the same
    }
  }

  // The part of a notebook's model that a widget uses; no kernel listens.
  function makeModel(state, key) {
    const chosen = remembered(key);
    const values = { ...state, ...chosen, _static: STATIC };
    const listeners = new Map();
    const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
    return {
      get: (name) => values[name],
      set(name, value) {
        if (values[name] === value) return;
        values[name] = value;
        chosen[name] = value;
        remember(key, chosen);
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
      el.textContent = `This widget could not start (${error.message}). The text continues below.`;
    }
  }

  function startAll() {
    const models = {};
    let number = 0;
    for (const script of document.querySelectorAll(`script[type="${TYPE}state+json"]`))
      for (const [id, { state }] of Object.entries(JSON.parse(script.textContent).state))
        models[id] = { state, model: makeModel(state, `${PREFIX} ${number++}`) };
    for (const script of document.querySelectorAll(`script[type="${TYPE}view+json"]`)) start(script, models);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
