// A result over its source: slices, window, segments. The server sends grey values and segment numbers;
// colours and switches are done here, so that a click needs no request.
"use strict";

const viewer = document.getElementById("viewer");
const base = `/api/v1/results/${viewer.dataset.result}/picture`;
const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
const caption = document.getElementById("caption");
const controls = document.getElementById("controls");
const slice = document.getElementById("slice");
const windows = document.getElementById("window");
const opacity = document.getElementById("opacity");
const kept = new Map(); // address -> promise of a bitmap
let picture = null;
let drawing = 0;

function bitmap(address) {
  if (!kept.has(address)) {
    if (kept.size > 400) kept.delete(kept.keys().next().value);
    const loaded = fetch(address).then((answer) => {
      if (!answer.ok) throw new Error(String(answer.status));
      return answer.blob();
    }).then((blob) => createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }));
    loaded.catch(() => kept.delete(address));
    kept.set(address, loaded);
  }
  return kept.get(address);
}

function imageOf(z) {
  const chosen = picture.presets[windows.selectedIndex];
  return bitmap(`${base}/${z}/image.png` + (chosen ? `?centre=${chosen.centre}&width=${chosen.width}` : ""));
}

function labelsOf(z) {
  return picture.segments.length ? bitmap(`${base}/${z}/labels.png`) : Promise.resolve(null);
}

function shown() {
  return new Set([...controls.querySelectorAll("#segments input:checked")].map((box) => Number(box.value)));
}

function numbersIn(image) {
  const hidden = new OffscreenCanvas(image.width, image.height).getContext("2d");
  hidden.drawImage(image, 0, 0);
  return hidden.getImageData(0, 0, image.width, image.height).data;
}

function blend(numbers, wanted) {
  const frame = context.getImageData(0, 0, canvas.width, canvas.height);
  const alpha = Number(opacity.value) / 100;
  const colors = new Map(picture.segments.map((one) => [one.number, one.color]));
  const row = canvas.width;
  const present = new Set();
  for (let i = 0, p = 0; p < numbers.length; i += 1, p += 4) {
    const number = numbers[p];
    if (!number || !wanted.has(number)) continue;
    present.add(number);
    const edge = numbers[p - 4] !== number || numbers[p + 4] !== number
      || numbers[p - 4 * row] !== number || numbers[p + 4 * row] !== number;
    const mix = edge ? Math.min(1, alpha * 2.5) : alpha;
    const color = colors.get(number);
    for (let c = 0; c < 3; c += 1) frame.data[p + c] = frame.data[p + c] * (1 - mix) + color[c] * mix;
  }
  context.putImageData(frame, 0, 0);
  return present;
}

async function draw() {
  const mine = ++drawing;
  const z = Number(slice.value);
  try {
    const [image, labels] = await Promise.all([imageOf(z), labelsOf(z)]);
    if (mine !== drawing) return; // a later slice is on its way
    if (canvas.width !== image.width || canvas.height !== image.height) fit(image);
    context.drawImage(image, 0, 0);
    const present = labels ? blend(numbersIn(labels), shown()) : new Set();
    const names = picture.segments.filter((one) => present.has(one.number)).map((one) => one.label);
    const told = `Slice ${z + 1} of ${picture.slices}` + (names.length ? `: ${names.join(", ")}` : "");
    caption.textContent = told;
    canvas.setAttribute("aria-label", told);
    canvas.dataset.drawn = String(z);
    for (const near of [z + 1, z - 1, z + 2]) {
      if (near >= 0 && near < picture.slices) { imageOf(near); labelsOf(near); }
    }
  } catch (error) {
    caption.textContent = `This slice cannot be shown (${error.message}).`;
  }
}

function fit(image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.style.aspectRatio = `${image.width * picture.spacing[1]} / ${image.height * picture.spacing[0]}`;
}

function segmentBox(segment) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: segment.number, checked: true });
  const patch = document.createElement("span");
  patch.className = "patch";
  patch.style.background = `rgb(${segment.color.join(" ")})`;
  label.append(box, patch, `${segment.label} `);
  const volume = document.createElement("small");
  volume.textContent = `${segment.ml} ml`;
  label.append(volume);
  return label;
}

async function begin() {
  const answer = await fetch(base);
  if (!answer.ok) {
    caption.textContent = (await answer.json()).detail;
    return;
  }
  picture = await answer.json();
  slice.max = picture.slices - 1;
  slice.value = picture.first;
  for (const preset of picture.presets) windows.add(new Option(`${preset.name} (${Math.round(preset.centre)} / ${Math.round(preset.width)})`));
  document.getElementById("windows").hidden = !picture.presets.length;
  for (const segment of picture.segments) document.getElementById("segments").append(segmentBox(segment));
  document.getElementById("segments").hidden = !picture.segments.length;
  opacity.hidden = !picture.segments.length;
  document.querySelector("label[for=opacity]").hidden = !picture.segments.length;
  controls.hidden = false;
  controls.addEventListener("input", draw);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    slice.value = Number(slice.value) + Math.sign(event.deltaY);
    draw();
  }, { passive: false });
  draw();
}

begin();
