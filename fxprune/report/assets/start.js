"use strict";
// The list of what is on the page, last: by now sections without data are hidden.
(() => {
  const { at, make, add } = Page;
  for (const one of document.querySelectorAll("main > section:not([hidden])")) {
    const link = make("a", one.dataset.title);
    link.href = "#" + one.id;
    add(at("contents"), link);
  }
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
