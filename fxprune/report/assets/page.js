"use strict";
// What every part of the page uses: the data, elements made of text alone, numbers, colours.
const Page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, text = "", kind = "") => {
    const one = document.createElement(tag);
    one.textContent = text; // never HTML: names come from anybody's model
    if (kind) one.className = kind;
    return one;
  };
  const add = (to, ...ones) => { to.append(...ones); return to; };
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const whole = (n) => Number(n).toLocaleString("en-US");
  const short = (n) => {
    const of = [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([k]) => Math.abs(n) >= k);
    return of ? (n / of[0]).toPrecision(3) + of[1] : String(n);
  };
  const share = (part, all) => (all ? (100 * part / all).toFixed(1) + "%" : "–");
  const mixed = (from, to, k) => {
    const read = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const [a, b] = [read(from), read(to)];
    return "#" + a.map((v, i) => Math.round(v + (b[i] - v) * k).toString(16).padStart(2, "0")).join("");
  };
  const rows = (table, headings, listed, numbers = []) => {
    const cell = (tag, text, i) => make(tag, text, numbers.includes(i) ? "number" : "");
    const head = add(make("thead"), add(make("tr"), ...headings.map((h, i) => cell("th", h, i))));
    const body = make("tbody");
    for (const one of listed) add(body, add(make("tr"), ...one.map((text, i) => cell("td", text, i))));
    table.replaceChildren(head, body);
  };
  const listeners = [];
  const themed = (call) => listeners.push(call);
  const setTheme = (name) => {
    document.documentElement.dataset.theme = name;
    listeners.forEach((call) => call());
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  // what is far down the page is drawn when somebody scrolls there
  const later = new Map();
  const watch = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) { watch.unobserve(one.target); const call = later.get(one.target); later.delete(one.target); call?.(); }
  }, { rootMargin: "300px" });
  window.addEventListener("beforeprint", () => { // on paper everything is in sight
    for (const [element, call] of later) { watch.unobserve(element); later.delete(element); call(); }
  });
  const whenSeen = (element, call) => { later.set(element, call); watch.observe(element); };
  const without = (id) => { at(id).hidden = true; };
  return { data, at, make, add, color, whole, short, share, mixed, rows, themed, whenSeen, without };
})();
