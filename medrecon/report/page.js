"use strict";
// The page works without this script; it adds a continuous slider, and panning by dragging.
document.documentElement.classList.add("has-script");
(function () {
  const root = document.body;
  const range = document.getElementById("position");
  const checked = (id) => { const input = document.getElementById(id); return Boolean(input && input.checked); };
  const clamp = (value) => Math.min(100, Math.max(0, value));
  function setPosition(percent) {
    root.style.setProperty("--position", `${percent}%`);
    if (range) { range.value = String(Math.round(percent)); }
  }
  if (range) {
    range.addEventListener("input", () => root.style.setProperty("--position", `${range.value}%`));
    setPosition(Number(range.value));
  }
  let dragged = null;
  function slide(event) {
    const box = dragged.frame.getBoundingClientRect();
    setPosition(clamp(100 * (event.clientX - box.left) / box.width));
  }
  function pan(event) {
    const box = dragged.frame.getBoundingClientRect();
    const zoom = checked("zoom-4") ? 4 : 2;
    const x = clamp(dragged.x - 100 * (event.clientX - dragged.left) / (box.width * (zoom - 1)));
    const y = clamp(dragged.y - 100 * (event.clientY - dragged.top) / (box.height * (zoom - 1)));
    root.style.setProperty("--x", `${x}%`);
    root.style.setProperty("--y", `${y}%`);
    dragged = { ...dragged, x, y, left: event.clientX, top: event.clientY };
  }
  const percent = (name) => Number.parseFloat(getComputedStyle(document.body).getPropertyValue(name)) || 0;
  document.addEventListener("pointerdown", (event) => {
    const frame = event.target.closest(".pannable .frame");
    if (!frame || event.button !== 0) { return; }
    const slides = checked("view-slider") && frame.closest(".compare");
    if (!slides && checked("zoom-1")) { return; }
    dragged = { frame, slides, left: event.clientX, top: event.clientY, x: percent("--x"), y: percent("--y") };
    event.preventDefault();
    if (slides) { slide(event); }
  });
  document.addEventListener("pointermove", (event) => {
    if (dragged) { (dragged.slides ? slide : pan)(event); }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    document.addEventListener(name, () => { dragged = null; });
  }
  // A chosen region replaces the one that was dragged to.
  for (const input of document.querySelectorAll("input[name=region], input[name=zoom]")) {
    input.addEventListener("change", () => { root.style.removeProperty("--x"); root.style.removeProperty("--y"); });
  }
})();
