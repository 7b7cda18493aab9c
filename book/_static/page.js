// What a page does by itself: the colour mode, the two side panels, the search field, the place in the table of contents,
// what it opens for a link, and how it goes to paper.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;
  const keep = (name, value) => {
    try {
      localStorage.setItem(name, value);
    } catch {
      // a browser that keeps nothing: the choice holds for this page
    }
  };

  // Light, dark, or as the system says. The head of the page has set it before the first paint.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    root.dataset.theme = root.dataset.mode === "auto" ? (system.matches ? "dark" : "light") : root.dataset.mode;
  };
  system.addEventListener("change", paint);
  for (const button of all(".theme-switch-button"))
    button.addEventListener("click", () => {
      const order = system.matches ? ["auto", "light", "dark"] : ["auto", "dark", "light"];
      root.dataset.mode = order[(order.indexOf(root.dataset.mode) + 1) % 3];
      keep("mode", root.dataset.mode);
      paint();
    });

  // On paper: light, and what is folded opens; print.css leaves out the answers and the hints.
  let folded = [];
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    folded = all("article details:not([open])");
    for (const box of folded) box.open = true;
  });
  addEventListener("afterprint", () => {
    for (const box of folded) box.open = false;
    paint();
  });

  // A section that may wait is closed. A link to it, or to something in it, opens it, as does a search that found its words.
  const open = (box) => {
    for (; box; box = box.parentElement.closest("details")) box.open = true;
  };
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    const section = target.matches("section") ? target : target.parentElement; // a second name is a span in its section
    open(section.querySelector(":scope > .wait") ?? target.closest("details"));
    return target;
  };
  reveal();
  addEventListener("hashchange", () => reveal()?.scrollIntoView());
  addEventListener("click", ({ target }) => target.closest("a")?.hash === location.hash && reveal());
  const revealFound = () => all(".wait .highlighted").forEach((found) => open(found.closest("details")));
  document.addEventListener("DOMContentLoaded", () => setTimeout(revealFound, 10)); // Sphinx marks them as late, but before

  // A dialog closes when its backdrop is pressed, and by Escape, which Sphinx's highlighting would swallow.
  for (const dialog of all("dialog")) {
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      dialog.close();
    });
  }

  // A side panel: on a narrow page its content moves into a dialog while it is open; on a wide one it is hidden or shown.
  function panel(name, wide) {
    const toggle = document.querySelector(`.${name}-toggle`);
    const side = document.getElementById(`pst-${name}-sidebar`);
    const dialog = document.getElementById(`pst-${name}-sidebar-modal`);
    if (!toggle || !side || !dialog) return;
    const move = (from, to) => {
      to.append(...from.childNodes);
      to.className = from.className;
      from.className = "";
    };
    toggle.addEventListener("click", () => {
      if (wide && matchMedia("(min-width: 992px)").matches) return side.classList.toggle("pst-sidebar-hidden");
      move(side, dialog);
      dialog.showModal();
    });
    dialog.addEventListener("close", () => move(dialog, side));
    if (name === "secondary") dialog.addEventListener("click", ({ target }) => target.closest("a") && dialog.close());
  }
  panel("primary", true);
  panel("secondary", false);

  // Search: a field on its own page, elsewhere in a dialog; Ctrl or ⌘ with K opens it.
  const search = document.getElementById("pst-search-dialog");
  const field = document.querySelector(".bd-search-container input[type='search']");
  const ask = () => {
    if (field) field.focus();
    else if (search.open) search.close();
    else search.showModal();
  };
  for (const button of all(".search-button__button")) button.addEventListener("click", ask);
  addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || event.shiftKey || event.altKey || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    ask();
  });
  if (/Mac|iPhone|iPad/.test(navigator.platform)) for (const key of all(".kbd-shortcut__modifier")) key.textContent = "⌘";
  field?.focus();

  // The sidebar shows the page that is open.
  const sidebar = document.getElementById("pst-primary-sidebar");
  const current = sidebar?.querySelector("li.current > a");
  if (current && sidebar.clientHeight) {
    const below = current.getBoundingClientRect().bottom - sidebar.getBoundingClientRect().bottom;
    if (below > 0) sidebar.scrollTop = below + sidebar.clientHeight / 2;
  }

  // The section that is read is marked in the contents of the page.
  const links = new Map(all(".page-toc a[href^='#']").map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const linkOf = (heading) => links.get(heading.closest("section").id);
  const shut = "details:not([open]) > section *";
  const headings = all("article section[id] > :is(h2, h3), .wait > summary > :is(h2, h3)").filter(linkOf);
  const mark = () => {
    const edge = innerHeight / 4;
    const last = headings.findLast((heading) => !heading.matches(shut) && heading.getBoundingClientRect().top < edge);
    for (const link of links.values()) link.classList.remove("active");
    if (last) linkOf(last).classList.add("active");
  };
  let waiting = false;
  if (headings.length) {
    addEventListener(
      "scroll",
      () => {
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => {
          waiting = false;
          mark();
        });
      },
      { passive: true },
    );
    mark();
  }

  // What is wider than the page can be scrolled by keyboard, and only that is a stop of the tab key.
  const boxes = all("article :is(pre, div.math, .output, .pst-scrollable-table-container)");
  const reach = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth + 1) {
        box.tabIndex = 0;
        if (box.matches("div.math")) box.setAttribute("role", "group");
      } else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  addEventListener("load", reach);
  addEventListener("toggle", reach, true);
  document.fonts?.ready.then(reach);
})();
