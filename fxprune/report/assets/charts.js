"use strict";
// The charts: each is drawn when it comes into sight, and again where the colours change.
(() => {
  const { data, at, make, add, color, whole, share, themed, whenSeen, without, rows } = Page;
  const { report, picture } = data;
  const drawn = new Map();
  const axis = (title, more = {}) => ({ grid: { color: color("line") }, border: { color: color("line") }, ...more, title: { display: Boolean(title), text: title, color: color("soft") }, ticks: { color: color("soft"), ...more.ticks } });
  const tens = { maxRotation: 0, callback: (v) => (Math.abs(Math.log10(v) % 1) < 1e-9 ? Number(v).toExponential(0) : "") };
  const draw = (id, config) => {
    drawn.get(id)?.destroy();
    const made = config();
    made.options = { responsive: true, maintainAspectRatio: false, animation: false, ...made.options };
    made.options.plugins = { legend: { labels: { color: color("ink"), boxWidth: 14 } }, ...made.options.plugins };
    drawn.set(id, new Chart(at(id), made));
  };
  const chart = (id, config) => { whenSeen(at(id), () => { draw(id, config); themed(() => draw(id, config)); }); return () => drawn.has(id) && draw(id, config); };
  const bars = (label, values, name) => ({ label, data: values, backgroundColor: color(name), maxBarThickness: 22 });
  const options = (select, listed) => listed.forEach((text, k) => { const one = make("option", text); one.value = k; add(select, one); });
  const tall = (id, count) => { at(id).parentElement.style.height = 70 + 26 * count + "px"; };
  const ends = (name, length = 34) => (name.length > length ? "…" + name.slice(-length) : name);

  // ---- layers
  const layers = picture?.layers ?? [];
  if (!layers.length) without("layers");
  else {
    const kept = (by) => layers.filter((one) => one[by][0]);
    const config = () => {
      const by = at("measure").value, listed = kept(by);
      return { type: "bar", data: { labels: listed.map((one) => one.path || "(the model)"),
        datasets: [bars("after", listed.map((one) => one[by][1]), "after"), { ...bars("before", listed.map((one) => one[by][0]), "before"), grouped: false, order: 2, barPercentage: 0.9 }].map((d, k) => (k ? d : { ...d, grouped: false, order: 1, barPercentage: 0.55 })) },
      options: { indexAxis: "y", scales: { x: { ...axis(by === "macs" ? "MACs for one example" : by), position: "top" }, y: axis("", { ticks: { autoSkip: false, callback(k) { return ends(this.getLabelForValue(k)); } } }) },
        plugins: { tooltip: { callbacks: { label: (item) => { const one = listed[item.dataIndex]; return `${one.type} ${by}: ${whole(one[by][0])} → ${whole(one[by][1])} (${share(one[by][1], one[by][0])})`; } } } } } };
    };
    tall("layers-chart", kept("parameters").length);
    const again = chart("layers-chart", config);
    at("measure").addEventListener("change", () => { tall("layers-chart", kept(at("measure").value).length); again(); });
  }

  // ---- scores
  const scores = picture?.scores ?? [];
  if (!scores.length) without("scores");
  else {
    options(at("score-target"), scores.map((one) => one.target));
    const again = chart("scores-chart", () => {
      const one = scores[Number(at("score-target").value)];
      const labels = one.kept.map((_, k) => `${one.edges[k].toPrecision(3)} – ${one.edges[k + 1].toPrecision(3)}`);
      return { type: "bar", data: { labels, datasets: [{ ...bars("removed", one.removed, "warm"), barPercentage: 1, categoryPercentage: 0.95 }, { ...bars("kept", one.kept, "after"), barPercentage: 1, categoryPercentage: 0.95 }] },
        options: { scales: { x: axis(`score (${data.metric})`, { stacked: true, ticks: { maxTicksLimit: 8, maxRotation: 0, callback(k) { return one.edges[k].toPrecision(3); } } }), y: axis("units", { stacked: true, ticks: { precision: 0 } }) } } };
    });
    at("score-target").addEventListener("change", again);
  }

  // ---- curves
  const curves = picture?.curves ?? [];
  if (!curves.length) without("curves");
  else chart("curves-chart", () => ({ type: "line",
    data: { datasets: curves.map((one, k) => ({ label: one.target, data: one.shares.map((x, i) => ({ x: 100 * x, y: one.losses[i] })), borderColor: `hsl(${(k * 47) % 360} 55% 50%)`, borderWidth: 1.5, pointRadius: 0, pointHitRadius: 8 })) },
    options: { scales: { x: { ...axis("% of the target's units removed"), type: "linear", min: 0 }, y: axis(`lost (${curves[0].lost})`) }, plugins: { legend: { display: curves.length <= 8, labels: { color: color("ink"), boxWidth: 14 } } } } }));

  // ---- latency
  const latency = report?.latency, kernels = picture?.kernels ?? [];
  if (!latency) without("latency");
  else {
    at("latency-said").textContent = `On ${latency.device}, ${latency.threads} thread${latency.threads === 1 ? "" : "s"}, batch ${latency.batch}: ${latency.met ? "met" : "NOT MET"}. Middle half of the measured times: ${latency.low.toPrecision(3)} to ${latency.high.toPrecision(3)} ms.`;
    chart("latency-chart", () => ({ type: "bar", data: { labels: ["original", "requested", "predicted", "measured"], datasets: [{ ...bars("ms", [latency.original, latency.requested, latency.predicted, latency.measured], "after"), backgroundColor: [color("before"), color("gold"), color("kept"), color("after")], maxBarThickness: 60 }] },
      options: { scales: { x: axis(""), y: axis("milliseconds of one batch", { beginAtZero: true }) }, plugins: { legend: { display: false } } } }));
    if (!kernels.length) { at("kernels").hidden = true; at("latency-chart").parentElement.className = "box alone"; }
    else {
      options(at("kernel"), kernels.map((one) => `${one.times} × ${one.kernel}, width ${"abcdefgh"[one.axis]}`));
      const again = chart("kernel-chart", () => {
        const one = kernels[Number(at("kernel").value)];
        const of = (width) => one.microseconds[one.widths.indexOf(width)] ?? null;
        return { type: "line", data: { datasets: [
          { label: `predicted, in steps of ${one.step}`, data: one.widths.map((x, i) => ({ x, y: one.microseconds[i] })), borderColor: color("after"), stepped: one.step > 1 ? "before" : false, borderWidth: 1.5, pointRadius: 0 },
          { label: "before", type: "scatter", data: [{ x: one.before, y: of(one.before) }], backgroundColor: color("soft"), radius: 6 },
          { label: "after", type: "scatter", data: [{ x: one.after, y: of(one.after) }], backgroundColor: color("warm"), radius: 6 }] },
          options: { scales: { x: { ...axis("width"), type: "linear" }, y: axis("microseconds", { beginAtZero: true }) } } };
      });
      at("kernel").addEventListener("change", again);
    }
  }

  // ---- the members of a family
  const family = data.family;
  if (!family) without("front");
  else {
    const all = [family.original, ...family.members];
    const x = (row) => row.ratio ?? row.cost, y = (row) => row.score ?? row.importance;
    const name = (row) => (row.goal === null ? "original" : `goal ${row.goal}`);
    chart("front-chart", () => ({ type: "scatter", data: { datasets: [
      { label: "on the front", data: all.filter((r) => r.pareto).sort((a, b) => x(a) - x(b)).map((r) => ({ x: x(r), y: y(r), name: name(r) })), showLine: true, borderColor: color("after"), backgroundColor: color("after"), borderWidth: 1.5, radius: 6 },
      { label: "beaten", data: all.filter((r) => !r.pareto).map((r) => ({ x: x(r), y: y(r), name: name(r) })), backgroundColor: color("before"), radius: 6 }] },
      options: { scales: { x: axis(family.front.cost), y: axis(family.front.worth) }, plugins: { tooltip: { callbacks: { label: (item) => `${item.raw.name}: ${item.raw.x.toFixed(3)}, ${item.raw.y.toPrecision(4)}` } } } } }));
    const ms = (row) => (row.milliseconds === null ? "" : row.milliseconds.toPrecision(3));
    rows(at("front-table"), ["", "achieved", "parameters", "MACs", "ms", family.front.worth, "front"],
      all.map((r) => [name(r), r.achieved === null ? "" : r.achieved.toFixed(3), whole(r.parameters), whole(r.macs), ms(r), y(r).toPrecision(4), r.pareto ? "yes" : ""]), [1, 2, 3, 4, 5]);
  }

  // ---- steps and fine-tuning
  const steps = report?.steps ?? [], epochs = (report?.tunings ?? []).flatMap((one) => one.epochs.map((e) => ({ ...e, step: one.step })));
  const scored = steps.some((one) => one.score !== null);
  if (steps.length < 2 && !epochs.length) without("steps");
  else {
    const line = (label, values, name, more = {}) => ({ label, data: values, borderColor: color(name), backgroundColor: color(name), borderWidth: 2, ...more });
    if (steps.length < 2) { at("steps-chart").parentElement.hidden = true; at("tuning-chart").parentElement.className = "box alone"; }
    else chart("steps-chart", () => ({ type: "line", data: { labels: steps.map((one) => one.step), datasets: [line("asked", steps.map((one) => one.goal), "gold", { borderDash: [5, 4] }), line("achieved", steps.map((one) => one.achieved), "after"), ...(scored ? [line("score", steps.map((one) => one.score), "warm", { yAxisID: "score" })] : [])] },
      options: { scales: { x: axis("step"), y: axis("share of the original"), ...(scored ? { score: { ...axis("score"), position: "right" } } : {}) } } }));
    if (!epochs.length) { at("tuning-chart").parentElement.hidden = true; at("steps-chart").parentElement.className = "box alone"; }
    else {
      const judged = epochs.some((one) => one.score !== null);
      chart("tuning-chart", () => ({ type: "line", data: { labels: epochs.map((one, k) => `${k + 1}`), datasets: [line("loss", epochs.map((one) => one.loss), "after"), ...(judged ? [line("score", epochs.map((one) => one.score), "warm", { yAxisID: "score" })] : [])] },
        options: { scales: { x: axis("epoch, over all fine-tunings"), y: axis("loss"), ...(judged ? { score: { ...axis("score"), position: "right" } } : {}) } } }));
    }
  }

  // ---- repair
  const repair = report?.repair, operators = repair?.operators ?? [];
  if (!operators.length) without("repair");
  else {
    at("repair-said").textContent = `Squared error of the outputs, relative to the original's: ${repair.before.toExponential(1)} before, ${repair.after.toExponential(1)} after, in ${repair.seconds.toFixed(1)} s.`;
    tall("repair-chart", operators.length);
    const least = (v) => Math.max(v, 1e-12);
    chart("repair-chart", () => ({ type: "bar", data: { labels: operators.map((one) => one.tensor || one.operator), datasets: [bars("before", operators.map((one) => least(one.before)), "before"), bars("after", operators.map((one) => least(one.after)), "after")] },
      options: { indexAxis: "y", scales: { x: { ...axis("squared error, relative to the original's results", { ticks: tens }), type: "logarithmic", position: "top" }, y: axis("", { ticks: { autoSkip: false, callback(k) { return ends(this.getLabelForValue(k)); } } }) },
        plugins: { tooltip: { callbacks: { afterBody: ([item]) => operators[item.dataIndex].why || "" } } } } }));
  }

  // ---- time
  const spent = Object.entries(report?.seconds ?? {}).filter(([, s]) => s >= 0.0005).sort((a, b) => b[1] - a[1]);
  const total = spent.reduce((sum, [, s]) => sum + s, 0);
  if (!spent.length) without("time");
  else chart("time-chart", () => ({ type: "bar", data: { labels: spent.map(([name]) => name), datasets: [bars("seconds", spent.map(([, s]) => s), "after")] },
    options: { indexAxis: "y", scales: { x: axis(`seconds, ${total.toPrecision(3)} in all`), y: axis("", { ticks: { autoSkip: false } }) }, plugins: { legend: { display: false }, tooltip: { callbacks: { label: (item) => `${item.raw.toPrecision(3)} s (${share(item.raw, total)})` } } } } }));
})();
