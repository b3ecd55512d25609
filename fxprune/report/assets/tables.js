"use strict";
// Summary, tables, specification and origin.
(() => {
  const { data, at, make, add, whole, short, share, rows, without } = Page;
  const { report, picture } = data;
  const kinds = { parameters: "parameters", macs: "MACs for one example", bytes: "bytes of weights", activation_bytes: "peak activation bytes" };

  at("model").textContent = data.title;
  at("asked").textContent = data.asked;
  for (const [key, name] of Object.entries(report ? kinds : {})) {
    const [before, after] = [report[key + "_before"], report[key + "_after"]];
    const card = add(make("div", "", "card"), make("small", name), make("b", share(after, before)));
    add(card, make("small", `${short(before)} → ${short(after)}`));
    const bar = make("i");
    bar.style.width = (before ? Math.min(100, 100 * after / before) : 0) + "%";
    add(card, add(make("div", "", "meter"), bar));
    card.title = `${whole(before)} before, ${whole(after)} after`;
    add(at("cards"), card);
  }
  if (report?.latency) {
    const one = report.latency;
    const card = add(make("div", "", "card"), make("small", `latency, ${one.device}`), make("b", share(one.ratio, 1)));
    add(card, make("small", `${one.original.toPrecision(3)} → ${one.measured.toPrecision(3)} ms, ${one.met ? "met" : "NOT MET"}`));
    add(at("cards"), card);
  }
  if (!report) without("summary");
  add(at("notes"), ...(report?.notes ?? []).map((note) => make("li", note)));

  const targets = report?.targets ?? [];
  if (!targets.length) without("targets");
  rows(at("targets-table"), ["target", "kind", "units", "kept", "share", "", "why"],
    targets.map((t) => [t.name, t.kind, whole(t.units), whole(t.kept), share(t.kept, t.units), t.exact ? "exact" : "approximate", t.why]), [2, 3, 4]);

  if (!report) without("stayed");
  else at("coverage").textContent = `${(100 * report.coverage).toFixed(1)}% of the parameters lie in at least one prunable unit.`
    + (report.pinned.length ? "" : " No axis of a parameter is pinned.");
  rows(at("pinned-table"), ["axis", "why", "operator", "line"], (report?.pinned ?? []).map((p) => [p.unit, p.reason, p.operator === "output = output" ? "" : p.operator, p.source_line]));

  at("spec").textContent = JSON.stringify(data.spec, null, 2);
  const origin = { model: picture?.model, ...picture?.versions, ...(report?.latency ? { device: `${report.latency.device}, ${report.latency.threads} thread${report.latency.threads === 1 ? "" : "s"}, batch ${report.latency.batch}` } : {}) };
  rows(at("versions"), ["", ""], Object.entries(origin).map(([name, value]) => [name, value ?? ""]));
  add(at("axes"), ...(report?.axes ?? []).map((line) => make("li", line)));
  if (!report) at("versions").parentElement.hidden = true;
})();
