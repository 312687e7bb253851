"use strict";
(() => {
  const { figures, switches, keys, keyed, themes } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = {};
  for (const one of Object.values(switches)) chosen[one.name] = one.chosen;

  // ---- theme
  const themeName = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const theme = () => themes[themeName()];
  const toggle = document.getElementById("theme");
  const nameToggle = () => {
    const other = themeName() === "dark" ? "Light" : "Dark";
    toggle.textContent = other;
    toggle.setAttribute("aria-label", `Switch to the ${other.toLowerCase()} theme`);
  };
  const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const mixed = (colors, part) => {
    const place = part * (colors.length - 1);
    const from = Math.min(Math.floor(place), colors.length - 2);
    const [a, b] = [channels(colors[from]), channels(colors[from + 1])];
    return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * (place - from))).join(",")})`;
  };
  const color = (name) => {
    const now = theme();
    if (name === "$order") return now.order.map((value, i) => [i / (now.order.length - 1), value]);
    const [base, opacity] = name.slice(1).split("/");
    if (/^q[\d.]+$/.test(base)) return mixed(now.order, Number(base.slice(1)));
    const found = /^c\d$/.test(base) ? now.series[Number(base[1])] : now[base];
    return opacity ? `rgba(${channels(found).join(",")},${opacity})` : found;
  };
  const COLORS = new Set(["color", "fillcolor", "colorscale", "fgcolor", "bgcolor"]);
  const coloured = (value, key) => {
    if (typeof value === "string") return COLORS.has(key) && value[0] === "$" ? color(value) : value;
    if (value === null || typeof value !== "object" || Array.isArray(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, coloured(inner, name)]));
  };

  // ---- figures
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  const CONFIG = {
    responsive: true, displaylogo: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };
  const keyOf = (figure) => figure.switches.map((name) => chosen[name]).join("|");
  const frameOf = (figure) => figure.frames[keyOf(figure)] || { data: [], layout: { empty: "nothing recorded" } };

  // A slider moves through steps: its axes stay where they are, so that steps can be compared.
  const ranges = {};
  const steadyRange = (figure, axis) => {
    const sliders = figure.switches.map((name) => switches[name].kind === "slider");
    if (!sliders.includes(true)) return null;
    const now = keyOf(figure).split("|");
    const like = (key) => key.split("|").every((part, i) => sliders[i] || part === now[i]);
    const known = `${figure.name} ${axis} ${now.filter((_, i) => !sliders[i]).join("|")}`;
    if (known in ranges) return ranges[known];
    let [low, high] = [Infinity, -Infinity];
    for (const [key, frame] of Object.entries(figure.frames)) {
      if (!like(key)) continue;
      const kind = (frame.layout[`${axis}axis`] || {}).type;
      const see = (value) => {
        if (typeof value !== "number" || (kind === "log" && value <= 0)) return;
        const at = kind === "log" ? Math.log10(value) : value;
        low = Math.min(low, at); high = Math.max(high, at);
      };
      for (const trace of frame.data) {
        if (trace.type !== "scatter") return (ranges[known] = null);
        trace[axis].forEach(see);
      }
      for (const mark of frame.layout.marks || []) if (mark.axis === axis) see(mark.at);
    }
    if (low > high) return (ranges[known] = null);
    const room = 0.05 * (high - low || 1);
    return (ranges[known] = [low - room, high + room]);
  };

  const axisOf = (figure, given, letter) => {
    const now = theme();
    const axis = {
      gridcolor: now.line, gridwidth: 1, linecolor: now.axis, showline: letter === "x", zeroline: false, ticks: "", exponentformat: "e",
      tickfont: { color: now.muted, size: 12 }, automargin: true, ticklabelstandoff: 4, ...given,
      title: { text: given.title || "", standoff: letter === "x" ? 10 : 8, font: { color: now.muted, size: 13 } },
      uirevision: `${keyOf(figure)}`,
    };
    delete axis.free;
    if (axis.type === "log") Object.assign(axis, { tickformat: "~g", nticks: letter === "x" ? 4 : 6 });
    if (!axis.range && !given.free && axis.type !== "category") {
      const range = steadyRange(figure, letter);
      if (range) Object.assign(axis, { range, uirevision: "steady" });
    }
    return axis;
  };
  const layoutOf = (figure, frame, width) => {
    const now = theme();
    const { xaxis = {}, yaxis = {}, marks = [], empty, own_legend: own, ...more } = frame.layout;
    const shared = figure.name in keyed && !own;
    const names = new Set((shared ? [] : frame.data).filter((one) => one.showlegend !== false && one.name).map((one) => one.name));
    const letters = Math.max(0, ...[...names].map((name) => name.length));
    const aside = width >= 520 && names.size > 4 && letters < 22;
    const rows = aside ? 0 : Math.ceil([...names].reduce((sum, name) => sum + 7 * name.length + 52, 0) / Math.max(width - 60, 100));
    const vertical = !aside && letters > 30 && width < 520;
    const layout = {
      height: Math.round(Math.min(460, Math.max(340, 0.5 * width))) + 20 * Math.max(0, (vertical ? names.size : rows) - 1),
      margin: { l: 10, r: 12, t: 14, b: 10 },
      paper_bgcolor: now.ground, plot_bgcolor: now.ground,
      font: { family: FONT, size: 12, color: now.text },
      hovermode: "closest", dragmode: "zoom", uirevision: "kept",
      hoverlabel: { bgcolor: now.surface, bordercolor: now.axis, font: { color: now.text, size: 13 }, namelength: -1 },
      modebar: { bgcolor: now.ground, color: now.muted, activecolor: now.accent },
      showlegend: names.size > 1 && (own || !(figure.name in keyed)),
      legend: aside
        ? { x: 1.02, y: 1, font: { size: 12, color: now.text }, itemwidth: 30 }
        : { orientation: vertical ? "v" : "h", x: 0, y: 1.03, yanchor: "bottom", font: { size: 12, color: now.text }, itemwidth: 30 },
      ...more,
      xaxis: axisOf(figure, xaxis, "x"), yaxis: axisOf(figure, yaxis, "y"), shapes: [], annotations: [],
    };
    for (const mark of marks) {
      const other = mark.axis === "y" ? "x" : "y";
      layout.shapes.push({
        type: "line", layer: "below", line: { color: now.muted, width: 1.5, dash: "dot" },
        [`${other}ref`]: "paper", [`${other}0`]: 0, [`${other}1`]: 1,
        [`${mark.axis}ref`]: mark.axis, [`${mark.axis}0`]: mark.at, [`${mark.axis}1`]: mark.at,
      });
    }
    if (empty) {
      layout.annotations.push({
        text: empty, showarrow: false, font: { color: now.muted, size: 15 }, xref: "paper", yref: "paper", x: 0.5, y: 0.5,
      });
    }
    return layout;
  };
  // Plotly keeps what a reader has hidden by the uid of a trace, which may hold letters and digits only.
  const uids = new Map();
  const uidOf = (name) => {
    if (!uids.has(name)) uids.set(name, `t${uids.size}`);
    return uids.get(name);
  };
  const hidden = new Set();
  const draw = (figure) => {
    const place = document.getElementById(figure.name);
    const frame = frameOf(figure);
    const seen = {};
    const data = frame.data.map((trace) => {
      const name = trace.name || "line";
      seen[name] = (seen[name] || 0) + 1;
      const shown = coloured(trace, "");
      if (shown.marker && shown.marker.colorbar) {
        Object.assign(shown.marker.colorbar, { tickfont: { color: theme().muted }, bgcolor: theme().ground });
        shown.marker.colorbar.title.font = { color: theme().muted };
      }
      return { ...shown, visible: !hidden.has(`${keyed[figure.name]} ${trace.legendgroup}`), uid: uidOf(`${name} ${seen[name]}`) };
    });
    document.getElementById(`${figure.name}-note`).textContent = frame.note || "";
    place.dataset.width = place.clientWidth;
    const config = { ...CONFIG, toImageButtonOptions: { filename: figure.name, scale: 2 } };
    return Plotly.react(place, data, layoutOf(figure, frame, place.clientWidth), config);
  };
  const drawAll = (which = () => true) => Promise.all(Object.values(figures).filter(which).map(draw));

  // ---- switches
  const optionsOf = (one) => (one.of ? one.options[chosen[one.of]] : one.options);
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const choose = (name, index) => {
    chosen[name] = index;
    const changed = new Set([name]);
    for (const one of Object.values(switches)) {
      if (one.of !== name) continue;
      chosen[one.name] = Math.min(chosen[one.name], optionsOf(one).length - 1);
      changed.add(one.name);
    }
    showSwitches();
    drawAll((figure) => figure.switches.some((used) => changed.has(used)));
  };
  const made = [];
  const makeSwitch = (one, place) => {
    const most = one.of ? Math.max(...one.options.map((options) => options.length)) : one.options.length;
    if (most < 2) {
      if (one.kind === "slider") {
        place.append(element("div", { class: "switch" }, element("span", { class: "label" }, `${one.label} ${optionsOf(one)[0] ?? ""}`)));
      }
      return;
    }
    const name = `switch-${one.name}-${made.length}`;
    const box = element("div", { class: "switch", "data-switch": one.name });
    if (one.kind === "buttons") {
      const group = element("div", { class: "buttons", role: "group", "aria-label": one.label });
      optionsOf(one).forEach((option, index) => {
        const button = element("button", { type: "button" }, option);
        button.addEventListener("click", () => choose(one.name, index));
        group.append(button);
      });
      box.append(element("span", { class: "label" }, one.label), group);
      made.push(() => [...group.children].forEach((button, index) => button.setAttribute("aria-pressed", chosen[one.name] === index)));
    } else if (one.kind === "list") {
      const list = element("select", { id: name }, ...optionsOf(one).map((option, index) => element("option", { value: index }, option)));
      list.addEventListener("change", () => choose(one.name, Number(list.value)));
      box.append(element("label", { for: name, class: "label" }, one.label), list);
      made.push(() => { list.value = chosen[one.name]; });
    } else {
      const slider = element("input", { type: "range", id: name, min: 0, step: 1 });
      const output = element("output", { for: name });
      slider.addEventListener("input", () => choose(one.name, Number(slider.value)));
      box.append(element("label", { for: name, class: "label" }, one.label), slider, output);
      made.push(() => {
        const options = optionsOf(one);
        slider.max = options.length - 1;
        slider.value = chosen[one.name];
        output.textContent = `${options[chosen[one.name]]} (${chosen[one.name] + 1} of ${options.length})`;
        slider.setAttribute("aria-valuetext", options[chosen[one.name]]);
      });
    }
    place.append(box);
  };
  const showSwitches = () => made.forEach((show) => show());
  for (const place of document.querySelectorAll("[data-switches]")) {
    for (const name of place.dataset.switches.split(" ")) makeSwitch(switches[name], place);
  }
  showSwitches();

  // ---- legends that several figures share
  const PATHS = {
    circle: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", square: "M-3.5 -3.5h7v7h-7z", diamond: "M0 -5L5 0L0 5L-5 0z",
    "triangle-up": "M0 -5L4.6 3.4H-4.6z", "triangle-down": "M0 5L4.6 -3.4H-4.6z",
    x: "M-4.5 -2.5L-2.5 -4.5L0 -2L2.5 -4.5L4.5 -2.5L2 0L4.5 2.5L2.5 4.5L0 2L-2.5 4.5L-4.5 2.5L-2 0z",
    cross: "M-1.6 -4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    star: "M0 -5.5L1.5 -1.8L5.3 -1.7L2.3 .8L3.3 4.5L0 2.4L-3.3 4.5L-2.3 .8L-5.3 -1.7L-1.5 -1.8z",
  };
  const GAPS = { solid: "", dash: "9 5", dot: "2.5 3", dashdot: "8 3 2 3", longdash: "13 5", longdashdot: "13 3 2 3" };
  const swatch = ({ index, look }) => {
    const now = theme();
    const paint = now.series[index % now.series.length];
    const dash = look === "line" ? now.dashes[index % now.dashes.length] : "solid";
    const line = look !== "mark" ? `<path d="M1 7H35" fill="none" stroke="${paint}" stroke-width="2.2" stroke-dasharray="${GAPS[dash] ?? dash.replaceAll("px", "")}"/>` : "";
    const width = look !== "mark" ? 36 : 14;
    const mark = `<path transform="translate(${width / 2} 7)" d="${PATHS[now.symbols[index % now.symbols.length]]}" fill="${paint}"/>`;
    return `<svg width="${width}" height="14" viewBox="0 0 ${width} 14" aria-hidden="true">${line}${mark}</svg>`;
  };
  const showKeys = () => {
    for (const place of document.querySelectorAll(".keys")) {
      place.replaceChildren(...keys[place.dataset.section].map((key) => {
        const name = `${place.dataset.section} ${key.group}`;
        const button = element("button", { type: "button", class: "key", "aria-pressed": !hidden.has(name) });
        button.innerHTML = swatch(key);
        button.append(element("span", {}, key.name));
        button.addEventListener("click", () => {
          if (!hidden.delete(name)) hidden.add(name);
          button.setAttribute("aria-pressed", !hidden.has(name));
          drawAll((figure) => keyed[figure.name] === place.dataset.section);
        });
        return button;
      }));
    }
  };

  // ---- begin
  const newTheme = () => { nameToggle(); showKeys(); return drawAll(); };
  toggle.hidden = false;
  nameToggle();
  showKeys();
  toggle.addEventListener("click", () => { root.dataset.theme = themeName() === "dark" ? "light" : "dark"; newTheme(); });
  dark.addEventListener("change", newTheme);
  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => drawAll(({ name }) => {
      const place = document.getElementById(name);
      return Number(place.dataset.width) !== place.clientWidth;
    }), 150);
  });
  (async () => {
    for (const figure of Object.values(figures)) {
      await draw(figure);
      await new Promise((resolve) => setTimeout(resolve));  // the page answers meanwhile
    }
    root.dataset.ready = "true";
  })();
})();
