// The one file that knows OHIF and cornerstone: what is open, where a click is in the patient, and the label map.
//
// It keeps to what OHIF puts on the page for others to use (`window.services`, `window.cornerstone`,
// `window.cornerstoneTools`) and of these to calls that have kept their names since OHIF 3.8.

import { add, dot } from "./geometry.js";

const RENDERED = "CORNERSTONE_IMAGE_RENDERED";
const LABELMAP = "Labelmap";
const NAME = "BioSAM-2";

export class Viewer {
  // True once a study is open. OHIF fills its services in as it starts, so anything may be missing yet.
  get isOpen() {
    try {
      return this.views().length > 0;
    } catch {
      return false;
    }
  }

  // What a signed-in person sends with every request.
  headers() {
    try {
      return window.services.userAuthenticationService.getAuthorizationHeader() ?? {};
    } catch {
      return {};
    }
  }

  // The view that the person works in, or null.
  view() {
    const { activeViewportId } = this.#grid();
    return this.#viewWith(activeViewportId);
  }

  // The view that a pointer's event is for, or null. OHIF lets only the active view have events: those on another
  // one arrive at what is around it.
  viewUnder({ target }, { clientX: x, clientY: y }) {
    if (!(target instanceof Element)) return null;
    const isUnder = ({ element }) => {
      const { left, right, top, bottom } = element.getBoundingClientRect();
      const touches = element.contains(target) || target.contains(element);
      return touches && x >= left && x <= right && y >= top && y <= bottom;
    };
    return this.views().find(isUnder) ?? null;
  }

  viewOf(element) {
    return this.views().find((view) => view.element === element) ?? null;
  }

  views() {
    return [...this.#grid().viewports.keys()].map((id) => this.#viewWith(id)).filter(Boolean);
  }

  // The label map of the series in a view; made the first time, with a value for each name from 1 on.
  // OHIF would call the first value of one without names "Segment 1".
  async labelMap(view, names) {
    const { segmentationService } = window.services;
    const segmentationId = `biosam2-${view.displaySet.displaySetInstanceUID}`;
    if (!segmentationService.getSegmentation(segmentationId)) {
      await segmentationService.createLabelmapForDisplaySet(view.displaySet, {
        segmentationId,
        label: NAME,
        segments: Object.fromEntries(names.map((label, n) => [n + 1, { segmentIndex: n + 1, label, active: n === 0 }])),
      });
    }
    return new LabelMap(segmentationId, view.displaySet);
  }

  // Open a series in the same mode.
  open(study, series) {
    const query = new URLSearchParams({ StudyInstanceUIDs: study, initialSeriesInstanceUID: series });
    window.location.assign(`${window.location.pathname}?${query}`);
  }

  #grid() {
    return window.services.viewportGridService.getState();
  }

  #viewWith(id) {
    const { cornerstoneViewportService, displaySetService } = window.services;
    const shown = this.#grid().viewports.get(id)?.displaySetInstanceUIDs ?? [];
    const viewport = cornerstoneViewportService.getCornerstoneViewport(id);
    const displaySet = shown.map((uid) => displaySetService.getDisplaySetByUID(uid)).find((set) => set?.imageIds?.length);
    return viewport?.canvasToWorld && displaySet ? new View(id, viewport, displaySet) : null;
  }
}

// A viewport that shows slices of a series.
class View {
  constructor(id, viewport, displaySet) {
    this.id = id;
    this.viewport = viewport;
    this.displaySet = displaySet;
    this.element = viewport.element;
    this.series = displaySet.SeriesInstanceUID;
  }

  // A place on the screen (clientX, clientY) in the patient, on the slice that is shown.
  toWorld(x, y) {
    const { left, top } = this.viewport.canvas.getBoundingClientRect();
    return [...this.viewport.canvasToWorld([x - left, y - top])];
  }

  // A place in the patient in pixels of the element.
  toElement(world) {
    const canvas = this.viewport.canvas.getBoundingClientRect();
    const element = this.element.getBoundingClientRect();
    const [x, y] = this.viewport.worldToCanvas(world);
    return [x + canvas.left - element.left, y + canvas.top - element.top];
  }

  // Whether it shows its image yet.
  get isDrawn() {
    return Boolean(this.viewport.getDefaultActor?.());
  }

  get normal() {
    return [...this.viewport.getCamera().viewPlaneNormal];
  }

  // A place on the slice that is shown.
  get middle() {
    const { left, top, width, height } = this.viewport.canvas.getBoundingClientRect();
    return this.toWorld(left + width / 2, top + height / 2);
  }

  // How far a place is from the slice that is shown, in mm.
  distance(world) {
    return Math.abs(dot(add(world, this.middle, -1), this.normal));
  }

  activate() {
    window.services.viewportGridService.setActiveViewportId(this.id);
  }

  // Calls back after every drawing of the view; returns what ends that.
  onRendered(callback) {
    this.element.addEventListener(RENDERED, callback);
    return () => this.element.removeEventListener(RENDERED, callback);
  }
}

// The segmentation that holds our structures: one value each, an image for each image of the series.
class LabelMap {
  constructor(id, displaySet) {
    this.id = id;
    this.displaySet = displaySet;
    this.slices = this.#segmentation().representationData[LABELMAP].imageIds.map((imageId) => labelImage(imageId));
  }

  // False once OHIF has closed the study that it belongs to.
  get isAlive() {
    return Boolean(window.services.segmentationService.getSegmentation(this.id));
  }

  // Names of the values, which OHIF's own panel may have changed.
  get names() {
    const segments = Object.values(this.#segmentation().segments ?? {}).filter((segment) => segment?.segmentIndex);
    return new Map(segments.map(({ segmentIndex, label }) => [segmentIndex, label]));
  }

  async show(view) {
    const { segmentationService } = window.services;
    const specifier = { segmentationId: this.id, type: LABELMAP };
    if (segmentationService.getSegmentationRepresentations(view.id, specifier).length) return;
    await segmentationService.addSegmentationRepresentation(view.id, specifier);
  }

  // Give a value its name, if it has none yet.
  name(value, label) {
    const { segmentationService } = window.services;
    if (!this.names.has(value)) segmentationService.addSegment(this.id, { segmentIndex: value, label });
  }

  // Make a value the one that OHIF's brush paints.
  activate(value) {
    window.services.segmentationService.setActiveSegment(this.id, value);
  }

  // Give a value its colour in all views that show it.
  paint(value, color) {
    const { segmentationService } = window.services;
    for (const view of segmentationService.getViewportIdsWithSegmentation(this.id)) {
      segmentationService.setSegmentColor(view, this.id, value, [...color, 255]);
    }
  }

  // Say that voxels of these slices (their numbers) are new.
  changed(numbers) {
    for (const number of numbers) {
      const { image, voxels } = this.slices[number];
      image.voxelManager.setScalarData?.(voxels);
    }
    window.cornerstoneTools.segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(this.id);
  }

  #segmentation() {
    return window.services.segmentationService.getSegmentation(this.id);
  }
}

// An image of the label map: its voxels, and where they are (LPS mm; steps per column and per row).
function labelImage(imageId) {
  const image = window.cornerstone.cache.getImage(imageId);
  const plane = window.cornerstone.metaData.get("imagePlaneModule", image.referencedImageId ?? imageId);
  return {
    image,
    voxels: image.voxelManager.getScalarData(),
    columns: plane.columns,
    rows: plane.rows,
    origin: [...plane.imagePositionPatient],
    right: [...plane.rowCosines].map((x) => x * plane.columnPixelSpacing),
    down: [...plane.columnCosines].map((x) => x * plane.rowPixelSpacing),
  };
}
