// Opens a study in OHIF as a radiologist would and says, as JSON, what the viewer then holds.
//
// node view.mjs '{"url": ..., "series": ["SEG", "SR"], "screenshot": ..., "chromium": ..., "playwright": ...}'
//
// Each given series, named by its modality or a part of its description, is put into the first viewport, one after
// the other, and hydrated where OHIF offers that. Page errors, segment labels, colours, voxel counts and measurements are printed.

import { createRequire } from 'node:module';

const task = JSON.parse(process.argv[2]);
const { chromium } = createRequire(import.meta.url)(task.playwright);
const told = { errors: [], console: [], displaySets: [], series: {} };

const browser = await chromium.launch({
  executablePath: task.chromium,
  args: ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist'],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.on('pageerror', error => told.errors.push(String(error.stack || error).slice(0, 600)));
  page.on('console', line => {
    if (line.type() === 'error') told.console.push(line.text().slice(0, 600));
  });
  await page.goto(task.url);
  await page.waitForFunction(
    wanted => window.services?.displaySetService?.getActiveDisplaySets().length >= wanted,
    task.expected,
    { timeout: task.timeout }
  );
  await page.waitForFunction(
    () => [...document.querySelectorAll('canvas')].some(c => c.width > 300),
    null,
    { timeout: task.timeout }
  );
  const tour = page.locator('text=Skip all').first();
  await tour.click({ timeout: 5000 }).catch(() => {});
  told.displaySets = await page.evaluate(() =>
    window.services.displaySetService.getActiveDisplaySets().map(d => ({
      modality: d.Modality,
      description: d.SeriesDescription,
      images: d.numImageFrames,
      unsupported: Boolean(d.unsupported),
      instance: d.SOPInstanceUID ?? null,
    }))
  );
  for (const name of task.series) told.series[name] = await show(page, name);
} catch (error) {
  told.errors.push(`timed out or broke: ${String(error).slice(0, 600)}`);
} finally {
  console.log(JSON.stringify(told));
  await browser.close();
}

async function show(page, name) {
  await page.evaluate(async wanted => {
    const { displaySetService, viewportGridService } = window.services;
    const set = displaySetService
      .getActiveDisplaySets()
      .find(d => d.Modality === wanted || d.SeriesDescription?.includes(wanted));
    const viewportId = viewportGridService.getActiveViewportId();
    viewportGridService.setDisplaySetsForViewport({
      viewportId,
      displaySetInstanceUIDs: [set.displaySetInstanceUID],
    });
  }, name);
  const yes = page.locator('[data-cy="yes-hydrate-btn"], button:has-text("Yes")').first();
  if (name === 'SEG') {
    await yes.click({ timeout: task.timeout }).catch(() => told.console.push(`${name}: no prompt`));
  }
  let held = await page.evaluate(what, name);
  for (const end = Date.now() + task.timeout; !held.ready && Date.now() < end; ) {
    await page.waitForTimeout(200);
    held = await page.evaluate(what, name);
  }
  // the viewer's tour may begin only now; it would lie over the picture
  if (task.screenshot) await page.locator('text=Skip all').first().click({ timeout: 1000 }).catch(() => {});
  if (task.screenshot) await page.screenshot({ path: task.screenshot.replace('{}', name.replaceAll(' ', '-')) });
  return held;
}

async function what(name) {
  const { segmentationService, measurementService, displaySetService } = window.services;
  const set = displaySetService
    .getActiveDisplaySets()
    .find(d => d.Modality === name || d.SeriesDescription?.includes(name));
  const { viewportGridService, cornerstoneViewportService } = window.services;
  const shown = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
  const found = { text: document.querySelector('[data-cy="viewport-grid"], #viewerLayoutResizablePanelGroup')?.innerText ?? '', loaded: set.isLoaded ?? null, hydrated: set.isHydrated ?? null,
    images: shown?.getImageIds?.().length ?? 0, spread: spread(shown?.getCanvas?.()) };
  if (name === 'SR') {
    found.displayed = (set.measurements ?? []).map(m => ({
      label: m.labels?.map(l => `${l.label}=${l.value}`) ?? [],
      tracking: m.TrackingUniqueIdentifier,
      loaded: m.loaded,
    }));
    found.ready = set.isLoaded &&
      (found.displayed.length ? found.displayed.every(m => m.loaded) : found.text.includes('Report'));
    found.measurements = measurementService.getMeasurements().map(m => ({
      label: m.label, type: m.type, uid: m.uid, text: m.displayText,
    }));
  }
  if (name === 'SEG') {
    const cache = window.cornerstone.cache;
    found.segmentations = segmentationService.getSegmentations().map(one => ({
      label: one.label,
      segments: Object.values(one.segments).filter(Boolean).map(s => ({
        index: s.segmentIndex, label: s.label, volume: s.cachedStats ?? null,
      })),
      counts: count(one, cache),
    }));
    const viewportId = window.services.viewportGridService.getActiveViewportId();
    found.colors = segmentationService.getSegmentations().map(one =>
      Object.values(one.segments).filter(Boolean).map(s =>
        Array.from(segmentationService.getSegmentColor(viewportId, one.segmentationId, s.segmentIndex))
      )
    );
  }
  if (name === 'SEG') found.ready = found.segmentations.some(one => Object.keys(one.counts).length > 0);
  if (name !== 'SEG' && name !== 'SR') found.ready = found.images > 0 && found.spread > 20;
  return found;

  function count(one, cache) {
    const labelmap = one.representationData?.Labelmap;
    const counts = {};
    for (const id of labelmap?.imageIds ?? []) {
      for (const value of cache.getImage(id).getPixelData()) {
        if (value) counts[value] = (counts[value] ?? 0) + 1;
      }
    }
    return counts;
  }

  // how many different colours the viewport shows: a black or grey screen has one
  function spread(canvas) {
    if (!canvas) return 0;
    const small = new OffscreenCanvas(64, 64).getContext('2d');
    small.drawImage(canvas, 0, 0, 64, 64);
    const data = small.getImageData(0, 0, 64, 64).data;
    const seen = new Set();
    for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
    return seen.size;
  }
}
