"use strict";
// What the coupling graph shows: elements for cytoscape, made of the targets and of the operators.
const Network = (() => {
  const { data, share } = Page;
  const { picture } = data;
  const WIDE = 24; // characters of a line of a label
  const { targets = [], flow = { nodes: [], reads: [] } } = picture ?? {};

  // the targets that each operator is given (parameters apart) and that its result carries
  const given = flow.nodes.map(() => new Set()), made = flow.nodes.map(() => new Set());
  const reading = flow.nodes.map(() => false), fed = flow.nodes.map(() => false);
  flow.nodes.forEach((node, k) => { if (node.kind !== "parameter") for (const [, target] of node.carries) made[k].add(target); });
  for (const [from, to] of flow.reads) {
    if (flow.nodes[from].kind === "parameter") { reading[to] = true; continue; }
    fed[to] = true;
    for (const [, target] of flow.nodes[from].carries) given[to].add(target);
  }

  // links of targets: an operator with weights reads the units of one and makes those of another
  const links = [];
  flow.nodes.forEach((node, k) => {
    if (!reading[k] || !fed[k]) return;
    const [ins, outs] = [[...given[k]], [...made[k]]];
    const label = node.module || node.operator;
    for (const a of ins.length ? ins : [-1]) for (const b of outs.length ? outs : [-2]) {
      if (a !== b && !(a < 0 && b < 0) && !(ins.includes(b) && outs.includes(a))) links.push([a, b, label]);
    }
  });

  const ends = { "-1": "fixed inputs", "-2": "fixed outputs" };
  const range = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? String(low) : `${low}–${high}`;
  };
  // names that differ in numbers only become one, "block.0–11.mlp"; others the first and the last
  const named = (members) => {
    const names = members.map((k) => targets[k].name.split(":")[0] || targets[k].name);
    const parts = names.map((one) => one.split(/(\d+)/));
    const skeleton = (one) => one.filter((_, i) => i % 2 === 0).join("#");
    const same = parts.every((one) => skeleton(one) === skeleton(parts[0]));
    if (!same) return `${lines(names[0])}\n… ${lines(names[names.length - 1])}`;
    return lines(parts[0].map((part, i) => (i % 2 ? range(parts.map((one) => Number(one[i]))) : part)).join(""));
  };
  const lines = (name) => {
    const found = [""];
    for (const part of name.split(/(?<=\.)/)) {
      if (found[found.length - 1] && (found[found.length - 1] + part).length > WIDE) found.push("");
      found[found.length - 1] += part;
    }
    return found.join("\n");
  };

  // nodes of targets, those of one group folded into one where asked
  function ofTargets(folded) {
    const groups = new Map();
    targets.forEach((one, k) => {
      const key = folded ? "g" + one.group : "t" + k;
      groups.set(key, [...(groups.get(key) ?? []), k]);
    });
    const place = new Map();
    const elements = [];
    for (const [id, members] of groups) {
      members.forEach((k) => place.set(k, id));
      const [units, kept] = [members.map((k) => targets[k].units), members.map((k) => targets[k].kept)];
      const first = targets[members[0]];
      const many = members.length > 1 ? `${members.length} × ` : "";
      elements.push({ data: {
        id, members, kind: first.kind, exact: first.exact,
        label: `${named(members)}\n${many}${first.kind} ${range(units)} → ${range(kept)}`,
        kept: kept.reduce((a, b) => a + b, 0) / units.reduce((a, b) => a + b, 0),
        text: members.flatMap((k) => [targets[k].name, ...targets[k].footprint.map(([name]) => name)]).join(" ").toLowerCase(),
      } });
    }
    const seen = new Map();
    for (const [a, b, label] of links) {
      const [from, to] = [a, b].map((k) => (k < 0 ? "e" + k : place.get(k)));
      if (from === to) continue;
      if (!seen.has(from + " " + to)) seen.set(from + " " + to, { from, to, layers: [] });
      seen.get(from + " " + to).layers.push(label);
    }
    for (const { from, to, layers } of seen.values()) {
      for (const end of [from, to]) if (end.startsWith("e") && !elements.some((e) => e.data.id === end))
        elements.push({ data: { id: end, kind: "end", label: ends[end.slice(1)], members: [], kept: -1, exact: true, text: "" } });
      elements.push({ data: { id: from + ">" + to, source: from, target: to, layers } });
    }
    return elements;
  }

  const plain = (operator) => operator.replace(/^aten\./, "").replace(/\.(default|Tensor)$/, "");

  // nodes of operators, edges coloured by the first target whose units the tensor carries
  function ofOperators() {
    const elements = [];
    flow.nodes.forEach((node, k) => {
      if (node.kind === "parameter") return;
      const makes = [...made[k]];
      const kept = makes.length ? Math.min(...makes.map((t) => targets[t].kept / targets[t].units)) : -1;
      elements.push({ data: {
        id: "n" + k, operator: k, kind: node.kind, members: makes, kept, exact: true,
        label: `${node.kind === "operator" ? plain(node.operator) : node.kind}\n${lines(node.module || node.name)}`,
        text: `${node.name} ${node.operator} ${node.module} ${makes.map((t) => targets[t].name).join(" ")}`.toLowerCase(),
      } });
    });
    for (const [from, to] of flow.reads) {
      if (flow.nodes[from].kind === "parameter") continue;
      const carried = flow.nodes[from].carries;
      const carries = carried.map(([dim, t]) => `axis ${dim}: ${targets[t].name}`);
      elements.push({ data: { id: `n${from}>${to}>${elements.length}`, source: "n" + from, target: "n" + to, carries, of: carried[0]?.[1] ?? -1 } });
    }
    return elements;
  }

  const told = (element) => {
    if (element.layers) return `${element.layers.slice(0, 8).join("\n")}${element.layers.length > 8 ? `\n… ${element.layers.length - 8} more` : ""}`;
    if (element.carries) return element.carries.join("\n") || "carries no unit";
    if (element.operator !== undefined) {
      const node = flow.nodes[element.operator];
      return [node.operator || node.kind, node.module, node.shape, node.source].filter(Boolean).join("\n");
    }
    return element.label + (element.kept >= 0 ? `\n${share(element.kept, 1)} kept` : "");
  };

  const groups = new Set(targets.map((one) => one.group)).size;
  const operators = flow.nodes.filter((node) => node.kind !== "parameter").length;
  return { targets, flow, ofTargets, ofOperators, told, groups, operators };
})();
