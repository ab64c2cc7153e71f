/* What a page gains where scripts run: search, copy buttons, a choice of theme. It needs none of it. */
"use strict";
(() => {
  const root = document.documentElement;
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  // --- theme: as the system has it, until the reader chooses
  const themes = ["auto", "light", "dark"];
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* a browser that keeps nothing */ }
  const tools = make("span", {className: "tools"});
  const theme = make("button", {type: "button", title: "colours: as the system, light or dark"});
  const show = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    theme.textContent = {auto: "◐", light: "☀", dark: "☾"}[name];
    theme.dataset.name = name;
  };
  show(themes.includes(kept) ? kept : "auto");
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(theme.dataset.name) + 1) % themes.length];
    show(next);
    try { localStorage.setItem("theme", next); } catch { /* only for this page */ }
  });

  // --- search: the index is a script of its own, read when the box is first used
  const box = make("input", {type: "search", placeholder: "Search", id: "search"});
  box.setAttribute("aria-label", "search the book");
  const found = make("ol", {className: "found", hidden: true});
  let loading = null;
  const load = () => loading ??= new Promise((done, failed) => {
    document.head.append(make("script", {src: "search.js", onload: () => done(window.BOOK), onerror: failed}));
  });
  const count = (text, word) => text.split(word).length - 1;
  const find = (sections, query) => {
    const words = query.toLowerCase().split(/[^\p{L}\p{N}_@]+/u).filter(Boolean);
    if (!words.length) return [];
    const rate = ([, title, heading, names, text]) => {
      let score = 0;
      for (const word of words) {
        const here = 40 * names.split(" ").includes(word) + 10 * count(heading, word)
          + 6 * count(title, word) + 3 * count(names, word) + Math.min(5, count(text, word));
        if (!here) return 0;
        score += here;
      }
      return score;
    };
    return sections.map((s) => [rate(s.map((part) => part.toLowerCase())), s])
      .filter(([score]) => score).sort((a, b) => b[0] - a[0]).slice(0, 12)
      .map(([, s]) => [s, words]);
  };
  const extract = (text, words) => {
    const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 50);
    return (at ? "…" : "") + text.slice(at, at + 150) + (text.length > at + 150 ? "…" : "");
  };
  const search = async () => {
    const results = find(await load(), box.value);
    found.replaceChildren(...results.map(([[link, title, heading, , text], words]) => {
      const entry = make("a", {href: link});
      entry.append(make("b", {textContent: heading || title}), " ",
                   make("span", {textContent: heading ? title : ""}),
                   make("small", {textContent: extract(text, words)}));
      const item = make("li");
      item.append(entry);
      return item;
    }));
    if (box.value.trim() && !results.length) found.append(make("li", {textContent: "Nothing found."}));
    found.hidden = !box.value.trim();
  };
  box.addEventListener("focus", load, {once: true});
  box.addEventListener("input", search);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { box.value = ""; found.hidden = true; }
    if (event.key === "Enter") found.querySelector("a")?.click();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/input|textarea/i.test(document.activeElement.tagName)) {
      event.preventDefault();
      box.focus();
    }
  });
  document.addEventListener("click", (event) => { if (!tools.contains(event.target)) found.hidden = true; });
  tools.append(box, found, theme);
  document.querySelector("header, main").prepend(tools);

  // --- a button on each piece of code
  for (const code of document.querySelectorAll(".jp-InputArea .highlight, .jp-MarkdownOutput .highlight")) {
    const button = make("button", {type: "button", className: "copy", textContent: "Copy"});
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.querySelector("pre").textContent.trimEnd());
        button.textContent = "Copied";
      } catch { button.textContent = "Select it by hand"; }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    code.append(button);
  }
})();
