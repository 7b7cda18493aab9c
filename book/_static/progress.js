// What a reader has read, answered and solved: kept in this browser, shown in the sidebar and on the map. Nothing is sent.
(() => {
  const KEY = "myllm:progress";
  const load = () => {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  };
  const chapterOf = (address) => /(?:^|\/)(\d\d-[\w-]+)\.html/.exec(address)?.[1];
  const here = chapterOf(location.pathname);
  let all = load();

  function change(edit) {
    all = load();
    edit((all[here] ??= { read: false, quiz: {}, exercises: {} }));
    try {
      localStorage.setItem(KEY, JSON.stringify(all));
    } catch {
      // a browser that keeps nothing
    }
    show();
  }

  const done = (marks) => Object.values(marks).filter(Boolean).length;
  const share = (marks) => done(marks) / Math.max(1, Object.keys(marks).length);
  function told({ read, quiz, exercises }) {
    const parts = [read ? "read" : "not read to the end"];
    if (done(quiz)) parts.push(`quiz ${done(quiz)} of ${Object.keys(quiz).length}`);
    if (done(exercises)) parts.push(`exercises ${done(exercises)} of ${Object.keys(exercises).length}`);
    return parts.join(", ");
  }
  const begun = ({ read, quiz, exercises }) => read || done(quiz) || done(exercises);

  function show() {
    for (const old of document.querySelectorAll(".progress-marks, .progress-note")) old.remove();
    for (const link of document.querySelectorAll(".bd-docs-nav a.reference")) {
      const chapter = link.getAttribute("href") === "#" ? here : chapterOf(link.getAttribute("href"));
      const state = all[chapter];
      if (!state || !begun(state)) continue;
      const marks = document.createElement("span");
      marks.className = "progress-marks";
      marks.title = told(state);
      for (const part of [state.read ? 1 : 0, share(state.quiz), share(state.exercises)]) {
        const mark = marks.appendChild(document.createElement("i"));
        mark.style.setProperty("--part", part);
        mark.setAttribute("aria-hidden", "true");
      }
      const words = marks.appendChild(document.createElement("span"));
      words.className = "visually-hidden";
      words.textContent = ` (${told(state)})`;
      link.append(marks);
    }
    for (const link of document.querySelectorAll("a[data-chapter]")) {
      const read = Boolean(all[link.dataset.chapter]?.read);
      link.classList.toggle("read", read);
      const label = link.getAttribute("aria-label")?.replace(", read", "");
      if (label) link.setAttribute("aria-label", label + (read ? ", read" : ""));
    }
    if (!Object.values(all).some(begun)) return;
    const note = document.createElement("p");
    note.className = "progress-note";
    note.append("Your progress is kept in this browser only. ");
    const forget = note.appendChild(document.createElement("button"));
    forget.type = "button";
    forget.textContent = "Forget it";
    forget.addEventListener("click", () => {
      localStorage.removeItem(KEY);
      all = {};
      for (const box of document.querySelectorAll(".exercise-done input")) box.checked = false;
      show();
    });
    document.querySelector(".bd-docs-nav")?.append(note);
  }

  if (here) {
    const questions = [...document.querySelectorAll(".quiz fieldset")];
    const cards = [...document.querySelectorAll(".exercise-card")];
    const quiz = Object.fromEntries(questions.map((_, i) => [i + 1, Boolean(all[here]?.quiz?.[i + 1])]));
    const exercises = Object.fromEntries(cards.map(({ id }) => [id, Boolean(all[here]?.exercises?.[id])]));
    all[here] = { read: Boolean(all[here]?.read), quiz, exercises };
    questions.forEach((question, i) =>
      question.addEventListener("change", ({ target }) => {
        const right = target.value === question.dataset.answer;
        change((state) => (state.quiz = { ...quiz, ...state.quiz, [i + 1]: right || Boolean(state.quiz[i + 1]) }));
      }),
    );
    for (const card of cards) {
      const label = document.createElement("label");
      label.className = "exercise-done";
      const box = label.appendChild(document.createElement("input"));
      box.type = "checkbox";
      box.checked = exercises[card.id];
      label.append("Solved");
      card.querySelector(".exercise-title").after(label);
      box.addEventListener("change", () =>
        change((state) => (state.exercises = { ...exercises, ...state.exercises, [card.id]: box.checked })),
      );
    }
    const end = document.querySelector(".prev-next-footer");
    if (end && !all[here].read)
      new IntersectionObserver(([entry], observer) => {
        if (!entry.isIntersecting || scrollY < innerHeight) return;
        observer.disconnect();
        change((state) => Object.assign(state, { read: true, quiz: { ...quiz, ...state.quiz }, exercises: { ...exercises, ...state.exercises } }));
      }).observe(end);
  }
  show();
})();
