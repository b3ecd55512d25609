"use strict";
// The coupling graph: zoom, search, hover, and what a click tells.
(() => {
  const { at, make, add, color, mixed, themed, share, whole, without } = Page;
  const { targets, flow } = Network;
  if (!targets.length) { without("coupling"); return; }
  const views = [];
  if (Network.groups < targets.length) views.push(["groups", `${Network.groups} groups of alike targets`, () => Network.ofTargets(true)]);
  views.push(["targets", `${targets.length} targets`, () => Network.ofTargets(false)]);
  if (Network.operators) views.push(["operators", `${Network.operators} operators`, Network.ofOperators]);
  for (const [name, label] of views) { const one = make("option", label); one.value = name; add(at("view"), one); }

  const SHAPES = { head: "hexagon", head_dim: "cut-rectangle", hidden: "ellipse", group: "octagon", expert: "barrel" };
  const MANY = 500; // nodes and edges, of which dagre would think for seconds
  const GAP = 50; // between the lines of a folded graph
  const hues = ["#1f6f8b", "#c8553d", "#5a8f3c", "#8a5fb0", "#b7791f", "#2a9d8f", "#b5507f", "#5b6fc0"];
  const fill = (node) => (node.data("kept") < 0 ? color("fixed") : mixed(color("kept"), color("warm"), Math.min(1, 1 - node.data("kept"))));
  const style = () => [
    { selector: "node", style: {
      label: "data(label)", "text-wrap": "wrap", "text-valign": "center", "text-halign": "center", "font-size": 13, color: color("ink"),
      "font-family": "system-ui, sans-serif", "background-color": fill, "border-width": 1.5, "border-color": color("soft"),
      shape: (n) => SHAPES[n.data("kind")] ?? "round-rectangle", "border-style": (n) => (n.data("exact") ? "solid" : "dashed"),
      width: (n) => n.data("wide"), height: (n) => n.data("high") } },
    { selector: "edge", style: { width: (e) => Math.min(5, 1.2 + 0.4 * ((e.data("layers") ?? []).length - 1)), "curve-style": "bezier", "target-arrow-shape": "triangle", "arrow-scale": 0.9,
      "line-color": (e) => line(e), "target-arrow-color": (e) => line(e), opacity: 0.75 } },
    { selector: ".faded", style: { opacity: 0.12 } },
    { selector: ".near", style: { opacity: 1, "line-color": color("warm"), "target-arrow-color": color("warm") } },
    { selector: ".found, node:selected", style: { "border-width": 4, "border-color": color("warm"), opacity: 1 } },
  ];
  const line = (e) => (e.data("of") >= 0 ? hues[e.data("of") % hues.length] : color("soft"));
  const sized = (elements) => {
    for (const { data } of elements) if (data.label) {
      const lines = data.label.split("\n");
      const room = SHAPES[data.kind] && data.operator === undefined ? 1.35 : 1;
      data.wide = room * (22 + 7.2 * Math.max(...lines.map((one) => one.length)));
      data.high = room * (12 + 17 * lines.length);
    }
    return elements;
  };

  const cy = cytoscape({ container: at("graph"), elements: [], style: style(), minZoom: 0.03, maxZoom: 3 });
  Page.graph = cy;
  const fit = () => { cy.resize(); cy.fit(undefined, 24); if (cy.zoom() > 1.2) { cy.zoom(1.2); cy.center(); } };
  // many operators, which come in order: each one rank behind the last that it reads, beside it
  const ranked = () => {
    const rank = new Map(), held = [];
    const across = 40 + Math.max(...cy.nodes().map((one) => one.data("wide")));
    cy.batch(() => cy.nodes().forEach((one) => {
      const before = one.incomers("node").map((other) => rank.get(other.id()) ?? [-1, 0]);
      const x = 1 + Math.max(-1, ...before.map(([at]) => at));
      let y = before.length ? Math.min(...before.map(([, at]) => at)) : 0;
      held[x] ??= new Set();
      while (held[x].has(y)) y += 1;
      held[x].add(y);
      rank.set(one.id(), [x, y]);
      one.position({ x: x * across, y: y * 70 });
    }));
  };
  // laid out from left to right; a long graph is folded into rows, like a text into lines
  const placed = () => {
    if (cy.elements().length > MANY) ranked();
    else cy.layout({ name: "dagre", rankDir: "LR", nodeSep: 14, rankSep: 46, edgeSep: 6, animate: false, fit: false }).run();
    const box = cy.elements().boundingBox();
    const wide = at("graph").clientWidth / at("graph").clientHeight;
    const lines = Math.round(Math.sqrt(box.w / (box.h + GAP) / wide));
    const columns = [...new Set(cy.nodes().map((one) => Math.round(one.position("x"))))].sort((a, b) => a - b);
    if (lines > 1) {
      const place = new Map();
      let [start, row] = [columns[0], 0];
      for (const x of columns) {
        if (x - start > box.w / lines) [start, row] = [x, row + 1];
        place.set(x, [x - start, row]);
      }
      const rows = Array.from({ length: row + 1 }, () => []);
      cy.nodes().forEach((one) => { rows[place.get(Math.round(one.position("x")))[1]].push(one); });
      let down = 0;
      cy.batch(() => rows.forEach((nodes) => {
        const tops = nodes.map((one) => one.position("y") - one.data("high") / 2);
        const ends = nodes.map((one) => one.position("y") + one.data("high") / 2);
        const top = Math.min(...tops);
        for (const one of nodes) one.position({ x: place.get(Math.round(one.position("x")))[0], y: one.position("y") - top + down });
        down += Math.max(...ends) - top + GAP;
      }));
    }
    const side = Math.round(Math.sqrt(box.h * wide / box.w));
    if (side > 1) { // a high graph: what stands in one column fills several
      let left = 0;
      cy.batch(() => columns.map((x) => cy.nodes().filter((one) => Math.round(one.position("x")) === x).sort((a, b) => a.position("y") - b.position("y"))).forEach((nodes) => {
        const [count, across, down] = [Math.min(side, nodes.length), GAP + Math.max(...nodes.map((one) => one.data("wide"))), 24 + Math.max(...nodes.map((one) => one.data("high")))];
        const rows = Math.ceil(nodes.length / count);
        nodes.forEach((one, k) => one.position({ x: left + across * (0.5 + k % count), y: down * (Math.floor(k / count) - rows / 2) }));
        left += across * count;
      }));
    }
    fit();
  };
  const show = (name) => {
    cy.elements().remove();
    cy.add(sized(views.find(([one]) => one === name)[2]()));
    placed();
    tell(null);
    search();
  };

  const list = (names, most = 60) => {
    const found = add(make("ul"), ...names.slice(0, most).map((one) => make("li", one)));
    if (names.length > most) add(found, make("li", `… ${names.length - most} more`, "soft"));
    return found;
  };
  function tell(node) {
    const box = at("detail");
    if (!node) {
      box.replaceChildren(make("p", "Click a node to see what leaves with it. Scroll to zoom, drag to move. A dashed border marks approximate targets: removing their units differs from zeroing them.", "soft"));
      return;
    }
    const parts = [];
    if (node.operator !== undefined) {
      const one = flow.nodes[node.operator];
      parts.push(make("h3", one.operator || one.kind), make("p", [one.name, one.module, one.shape, one.source].filter(Boolean).join(" · "), "soft"));
    }
    if (!node.members.length && node.kept < 0) parts.push(make("h3", node.label), make("p", "No unit can leave here: the sizes of inputs and outputs never change.", "soft"));
    for (const k of node.members.slice(0, 24)) {
      const one = targets[k];
      parts.push(make("h3", one.name), make("p", `${whole(one.units)} ${one.kind} units, ${whole(one.kept)} kept (${share(one.kept, one.units)})${one.exact ? "" : `; approximate: ${one.why}`}`, "soft"));
      parts.push(list(one.footprint.map(([name, dim]) => `${name}, axis ${dim}`), node.members.length > 1 ? 6 : 60));
    }
    if (node.members.length > 24) parts.push(make("p", `… ${node.members.length - 24} more targets`, "soft"));
    box.replaceChildren(...parts);
  }

  const tip = at("tip");
  const hint = (event) => {
    const { clientX: x, clientY: y } = event.originalEvent ?? { clientX: 0, clientY: 0 };
    tip.style.left = Math.max(4, Math.min(x + 14, window.innerWidth - 260)) + "px";
    tip.style.top = Math.max(4, Math.min(y + 14, window.innerHeight - 120)) + "px";
  };
  cy.on("mouseover", "node, edge", (event) => {
    tip.textContent = Network.told(event.target.data());
    tip.hidden = false;
    hint(event);
    const near = event.target.isNode() ? event.target.closedNeighborhood() : event.target.union(event.target.connectedNodes());
    cy.elements().addClass("faded");
    near.removeClass("faded").edges().addClass("near");
  });
  cy.on("mousemove", "node, edge", hint);
  cy.on("mouseout", "node, edge", () => { tip.hidden = true; cy.elements().removeClass("near faded"); search(); });
  cy.on("tap", (event) => tell(event.target === cy || event.target.isEdge() ? null : event.target.data()));

  function search() {
    const text = at("search").value.trim().toLowerCase();
    cy.elements().removeClass("found faded");
    at("found").textContent = "";
    if (!text) return null;
    const found = cy.nodes().filter((one) => one.data("text").includes(text));
    at("found").textContent = `${found.length} found`;
    if (found.length) { cy.elements().addClass("faded"); found.removeClass("faded").addClass("found"); }
    return found;
  }
  at("search").addEventListener("input", () => search());
  at("search").addEventListener("keydown", (event) => {
    const found = event.key === "Enter" ? search() : null;
    if (found?.length) { cy.fit(found, 80); if (cy.zoom() > 1.2) { cy.zoom(1.2); cy.center(found); } tell(found[0].data()); }
  });
  at("view").addEventListener("change", () => show(at("view").value));
  at("fit").addEventListener("click", fit);
  window.addEventListener("resize", () => cy.resize());
  themed(() => cy.style(style()));
  show(views[0][0]);
})();
