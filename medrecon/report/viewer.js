// View of the volume, by NiiVue. The still pictures stay unless WebGL 2 works and the volume has been drawn.
(async () => {
  "use strict";
  const get = (id) => document.getElementById(id);
  const root = get("volume-view");
  const still = get("volume-static");
  const facts = JSON.parse(get("vv-facts").textContent);

  const hasWebGL = () => {
    const context = document.createElement("canvas").getContext("webgl2");
    if (!context) return false;
    const fits = Math.max(...facts.size) <= context.getParameter(context.MAX_3D_TEXTURE_SIZE);
    context.getExtension("WEBGL_lose_context")?.loseContext();
    return fits;
  };

  const nearby = () => new Promise((resolve) => {
    if (!still || typeof IntersectionObserver === "undefined") return resolve();
    const observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); resolve(); }
    }, { rootMargin: "600px" });
    observer.observe(still);
  });

  const unpack = async (id) => {
    const element = get(id);
    const text = atob(element.textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
    element.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };

  const library = async () => {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack("vv-library"));
    document.head.append(script);
    return globalThis.niivue;
  };

  const show = (works) => {
    root.hidden = !works;
    if (!works) get("vv-canvas")?.remove(); // NiiVue draws no canvas without a size
    if (still) still.hidden = works;
  };

  const ramp = ([red, green, blue]) =>
    ({ R: [red, red], G: [green, green], B: [blue, blue], A: [0, 255], I: [0, 255] });

  const chosen = () => root.querySelector("input[name=vv-overlay]:checked")?.id.replace("vv-overlay-", "") ?? "none";

  // NIfTI in the page to a volume of NiiVue, with its window and colours.
  const volumeOf = async (nv, one) => {
    const volume = await globalThis.niivue.NVImage.loadFromUrl({ url: `${one.id}.nii`, buffer: await unpack(one.id) });
    if (one.colour) nv.addColormap(one.id, ramp(one.colour));
    volume.colormap = one.colour ? one.id : "gray";
    [volume.cal_min, volume.cal_max] = [one.low, one.high];
    return volume;
  };

  const start = async () => {
    const { Niivue } = await library();
    const nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.35, 0.7, 0.9, 0.6], crosshairWidth: 1, crosshairGap: Math.max(...facts.size) / 25,
      dragAndDropEnabled: false, fontColor: [1, 0.85, 0.4, 1], fontMinPx: 17, isRadiologicalConvention: true,
      isOrientationTextVisible: facts.oriented, logLevel: "fatal", loadingText: "", multiplanarShowRender: 0,
      showAllOrientationMarkers: true, tileMargin: 12, viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    const image = await volumeOf(nv, facts.volumes[0]);
    root.hidden = false; // a canvas without a size cannot be attached
    const canvas = get("vv-canvas");
    await nv.attachToCanvas(canvas, false);
    const draw = nv.drawScene.bind(nv);
    nv.drawScene = () => (canvas.clientWidth && canvas.clientHeight ? draw() : undefined);
    nv.addVolume(image);
    await new Promise((resolve) => requestAnimationFrame(resolve));
    nv.drawScene();
    return nv;
  };

  const number = (value) => Number(value.toPrecision(4)).toString();

  // The position of the cross-hair in words, and the values there.
  const place = (location) => {
    const shown = facts.volumes.filter((one, k) => !k || one.id === chosen());
    const values = shown.map((one, k) => {
      const value = location.values[k]?.value;
      return value === undefined || one.flags ? "" : `${one.short} ${number(value)}${facts.unit && ` ${facts.unit}`}`;
    }).filter(Boolean).join(", ");
    const words = [["left", "right"], ["posterior", "anterior"], ["inferior", "superior"]];
    const where = [...location.mm].slice(0, 3).map((mm, k) =>
      facts.oriented ? `${Math.abs(mm).toFixed(1)} mm ${words[k][mm < 0 ? 0 : 1]}` : "").filter(Boolean).join(", ");
    return [where, values].filter(Boolean).join(": ");
  };

  const controls = (nv) => {
    const size = nv.volumes[0].dimsRAS.slice(1, 4);
    const sliders = ["vv-x", "vv-y", "vv-z"].map(get);
    const update = () => {
      sliders.forEach((slider, k) => {
        slider.value = Math.min(size[k] - 1, Math.max(0, Math.floor(nv.scene.crosshairPos[k] * size[k])));
      });
    };
    nv.onLocationChange = (location) => {
      get("vv-where").textContent = place(location);
      root.dataset.mm = [...location.mm].slice(0, 3).map((mm) => mm.toFixed(2)).join(" ");
      update();
    };
    const move = () => {
      nv.scene.crosshairPos = sliders.map((slider, k) => (Number(slider.value) + 0.5) / size[k]);
      nv.createOnLocationChange();
      nv.drawScene();
    };
    sliders.forEach((slider, k) => {
      slider.max = size[k] - 1;
      slider.addEventListener("input", move);
    });
    update();
    move();

    const type = nv.sliceTypeMultiplanar;
    const types = { all: type, axial: nv.sliceTypeAxial, coronal: nv.sliceTypeCoronal, sagittal: nv.sliceTypeSagittal };
    for (const radio of root.querySelectorAll("input[name=vv-type]")) {
      radio.addEventListener("change", () => nv.setSliceType(types[radio.id.replace("vv-type-", "")]));
    }

    const [low, high] = [get("vv-low"), get("vv-high")];
    const levels = () => {
      get("vv-low-text").textContent = number(nv.volumes[0].cal_min);
      get("vv-high-text").textContent = number(nv.volumes[0].cal_max);
    };
    const window_ = (moved) => {
      const step = Number(low.step);
      if (Number(high.value) - Number(low.value) < step) {
        if (moved === low) high.value = Number(low.value) + step; else low.value = Number(high.value) - step;
        if (Number(high.value) - Number(low.value) < step) moved.value = Number(moved.value) + (moved === low ? -step : step);
      }
      nv.volumes[0].cal_min = Number(low.value);
      nv.volumes[0].cal_max = Number(high.value);
      nv.updateGLVolume();
      levels();
    };
    for (const slider of [low, high]) slider.addEventListener("input", () => window_(slider));
    nv.onIntensityChange = (volume) => {
      if (volume !== nv.volumes[0]) return;
      low.value = volume.cal_min;
      high.value = volume.cal_max;
      levels();
    };
    get("vv-reset").addEventListener("click", () => {
      [low.value, high.value] = [facts.volumes[0].low, facts.volumes[0].high];
      window_(high);
      nv.setPan2Dxyzmm([0, 0, 0, 1]);
    });

    const opacity = get("vv-opacity");
    const loaded = {};
    const choose = async () => {
      const one = facts.volumes.find((other) => other.id === chosen());
      for (const other of facts.volumes.slice(1)) get(`${other.id}-legend`).hidden = other !== one;
      if (one && !loaded[one.id]) loaded[one.id] = volumeOf(nv, one);
      const volume = one && await loaded[one.id];
      if ((one?.id ?? "none") !== chosen()) return; // chosen anew meanwhile
      for (const other of nv.volumes.slice(1)) nv.removeVolume(other);
      if (volume) {
        // The opacity of a spread is proportional to it.
        [volume.modulationImage, volume.modulateAlpha] = one.flags ? [null, 0] : [1, 1];
        volume.opacity = Number(opacity.value) / 100;
        nv.addVolume(volume);
      }
      nv.createOnLocationChange();
      root.dataset.overlay = chosen();
    };
    for (const radio of root.querySelectorAll("input[name=vv-overlay]")) radio.addEventListener("change", choose);
    opacity?.addEventListener("input", () => {
      get("vv-opacity-text").textContent = `${opacity.value} %`;
      if (nv.volumes.length > 1) nv.setOpacity(1, Number(opacity.value) / 100);
    });

    const convention = get("vv-radiological");
    convention?.addEventListener("change", () => {
      nv.setRadiologicalConvention(convention.checked);
      get("vv-side").textContent = convention.checked ? "right" : "left";
    });

    get("vv-stills").addEventListener("click", () => {
      still.hidden = !still.hidden;
      get("vv-stills").setAttribute("aria-pressed", String(!still.hidden));
    });
    get("vv-stills").hidden = !still;

    // The wheel scrolls the page until the canvas has been clicked, and keys have one meaning each.
    const stage = get("vv-stage");
    const canvas = get("vv-canvas");
    stage.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) event.stopPropagation();
    }, { capture: true, passive: true });
    const keys = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 1], ArrowDown: [1, -1], PageUp: [2, 1], PageDown: [2, -1],
    };
    stage.addEventListener("keydown", (event) => {
      event.stopPropagation();
      const key = keys[event.key];
      if (!key || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const slider = sliders[key[0]];
      const mirrored = key[0] === 0 && nv.opts.isRadiologicalConvention && nv.opts.sliceType !== nv.sliceTypeSagittal;
      slider.value = Number(slider.value) + (mirrored ? -key[1] : key[1]);
      move();
    }, { capture: true });
    stage.addEventListener("keyup", (event) => event.stopPropagation(), { capture: true });
    canvas.addEventListener("webglcontextlost", () => show(false));
  };

  if (!root || typeof DecompressionStream === "undefined" || !hasWebGL()) return;
  await nearby();
  try {
    const nv = await start();
    controls(nv);
    show(true);
    root.dataset.ready = "yes";
  } catch (error) {
    show(false);
    root.dataset.failed = String(error);
  }
})();
