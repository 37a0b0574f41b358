"use strict";
(() => {
  const data = (element) =>
    JSON.parse(element.querySelector(':scope > script[type="application/json"]').textContent);
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

  // The theme: the system's, until the button says otherwise.
  const theme = document.getElementById("theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  // Charts: the nearest point of each curve, by pointer or by key.
  for (const plot of document.querySelectorAll(".plot")) {
    const { x_name, unit, series, scales } = data(plot);
    const cursor = plot.querySelector(".cursor");
    const tip = plot.querySelector(".tip");
    const spoken = plot.parentElement.querySelector("[aria-live]");
    const places = [...new Set(series.flatMap((each) => each.x))].sort((a, b) => a - b);
    let now = -1;
    const number = (value) => String(Number(value.toPrecision(5)));
    const near = (each, x) => {
      let best = 0;
      each.x.forEach((own, i) => { if (Math.abs(own - x) < Math.abs(each.x[best] - x)) best = i; });
      return best;
    };
    const layout = () => {
      const wide = plot.querySelector(".wide").offsetWidth > 0;
      const found = scales[wide ? "wide" : "narrow"];
      return { ...found, zoom: plot.clientWidth / found.size[0] };
    };
    const hide = () => { cursor.hidden = tip.hidden = true; };
    const show = (place, aloud) => {
      now = clamp(place, 0, places.length - 1);
      const x = places[now];
      const { scale, area, zoom } = layout();
      const left = (scale[0] * x + scale[1]) * zoom;
      const lines = [];
      for (const each of series) {
        const at = near(each, x);
        if (Math.abs(each.x[at] - x) * Math.abs(scale[0]) <= 6) {
          lines.push(`${each.name}: ${number(each.y[at])}${unit && "\u00a0" + unit}`);
        }
      }
      const head = document.createElement("b");
      head.textContent = `${x_name} ${number(x)}`;
      tip.replaceChildren(head, ...lines.flatMap((line, i) => (i ? [document.createElement("br"), line] : [line])));
      cursor.hidden = tip.hidden = false;
      cursor.style.cssText = `left:${left}px;top:${area[1] * zoom}px;height:${(area[3] - area[1]) * zoom}px`;
      const beside = left + 12 + tip.offsetWidth > plot.clientWidth ? left - 12 - tip.offsetWidth : left + 12;
      tip.style.left = `${clamp(beside, 0, plot.clientWidth - tip.offsetWidth)}px`;
      tip.style.top = `${area[1] * zoom}px`;
      if (aloud) spoken.textContent = [head.textContent, ...lines].join(", ");
    };
    const point = (event) => {
      const { scale, zoom } = layout();
      const x = ((event.clientX - plot.getBoundingClientRect().left) / zoom - scale[1]) / scale[0];
      show(near({ x: places }, x), false);
    };
    plot.addEventListener("pointermove", point);
    plot.addEventListener("pointerdown", point);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: places.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined) return;
      event.preventDefault();
      show(step, true);
    });
    addEventListener("resize", hide);
  }

  // Maps.
  for (const map of document.querySelectorAll(".map")) {
    const { columns, rows, planes, notes, labels, names, classes } = data(map);
    const svg = map.querySelector(".frame svg");
    const frame = map.querySelector(".frame");
    const card = map.querySelector(".shown");
    const picture = map.querySelector(".picture");
    const words = map.querySelector(".words");
    const ring = map.querySelector(".ring");
    const spoken = map.querySelector("[aria-live]");
    const circles = [...svg.querySelectorAll("circle:not(.ring)")];
    const chosen = new Set();
    // The way that the circles are drawn in.
    let points = planes[map.querySelector("[data-way][aria-pressed=true]").dataset.way];
    let now = -1;
    const visible = (i) => !chosen.size || chosen.has(labels[i]);
    const hide = () => { card.hidden = true; ring.setAttribute("hidden", ""); };
    const zoom = () => {
      const box = svg.getBoundingClientRect();
      const scale = Math.min(box.width, box.height) / 1000;
      return { box, scale, left: (box.width - 1000 * scale) / 2, top: (box.height - 1000 * scale) / 2 };
    };
    const show = (i, aloud) => {
      now = i;
      const [x, y] = points[i];
      ring.removeAttribute("hidden");
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);
      picture.style.backgroundPosition = `${share(i % columns, columns)}% ${share(Math.floor(i / columns), rows)}%`;
      const head = document.createElement("b");
      head.textContent = labels.length ? classes[labels[i]] : `image ${i + 1}`;
      words.replaceChildren(head, names[i]);
      card.hidden = false;
      const { scale, left, top } = zoom();
      const across = left + x * scale;
      const down = top + y * scale;
      const beside = across + 18 + card.offsetWidth > frame.clientWidth ? across - 18 - card.offsetWidth : across + 18;
      card.style.left = `${clamp(beside, 0, frame.clientWidth - card.offsetWidth)}px`;
      card.style.top = `${clamp(down - card.offsetHeight / 2, 0, Math.max(0, frame.clientHeight - card.offsetHeight))}px`;
      if (aloud) spoken.textContent = `${head.textContent}, ${names[i]}`;
    };
    const nearest = (x, y, most, allowed) => {
      let best = -1;
      let least = most;
      points.forEach((point, i) => {
        const away = Math.hypot(point[0] - x, point[1] - y);
        if (away < least && allowed(i, point)) { least = away; best = i; }
      });
      return best;
    };
    const point = (event) => {
      const { box, scale, left, top } = zoom();
      const x = (event.clientX - box.left - left) / scale;
      const y = (event.clientY - box.top - top) / scale;
      const found = nearest(x, y, 40, visible);
      if (found < 0) hide(); else show(found, false);
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way) return;
      event.preventDefault();
      if (now < 0 || card.hidden || !visible(now)) {
        return show(nearest(500, 500, Infinity, visible), true);
      }
      const [x, y] = points[now];
      const found = nearest(x, y, Infinity, (i, [u, v]) => {
        const along = (u - x) * way[0] + (v - y) * way[1];
        const aside = Math.abs((u - x) * way[1]) + Math.abs((v - y) * way[0]);
        return i !== now && visible(i) && along > 0 && along >= aside;
      });
      if (found >= 0) show(found, true);
    });
    const ways = [...map.querySelectorAll("[data-way]")];
    for (const button of ways) {
      button.hidden = ways.length < 2;
      button.addEventListener("click", () => {
        points = planes[button.dataset.way];
        circles.forEach((circle, i) => {
          circle.setAttribute("cx", points[i][0]);
          circle.setAttribute("cy", points[i][1]);
        });
        ways.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        map.querySelector("[data-note]").textContent = notes[button.dataset.way];
        hide();
      });
    }
    for (const button of map.querySelectorAll("[data-class]")) {
      button.addEventListener("click", () => {
        const label = Number(button.dataset.class);
        if (!chosen.delete(label)) chosen.add(label);
        button.setAttribute("aria-pressed", String(chosen.has(label)));
        circles.forEach((circle, i) => circle.classList.toggle("dim", !visible(i)));
        hide();
      });
    }
  }

  // A file opened from disk may have no clipboard: then the text is selected.
  for (const button of document.querySelectorAll(".copy")) {
    const text = button.previousElementSibling;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
    });
  }
})();
