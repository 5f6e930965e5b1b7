// Maps of training extents and results: outlines of the land below, tiles where they are configured.
"use strict";

const CLASS_COLOR = "#e63c28";
const OUTLINE = { color: "#c2410c", weight: 2, fillColor: "#f97316", fillOpacity: 0.18 };

async function geojson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

// Text alone: what a file says never becomes HTML.
function popup(properties) {
  const box = document.createElement("div");
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || typeof value === "object" || key === "link") continue;
    const line = document.createElement("div");
    line.textContent = key === "title" ? value : `${key}: ${value}`;
    box.append(line);
  }
  if (typeof properties?.link === "string" && properties.link.startsWith("/results/")) {
    const link = document.createElement("a");
    link.href = properties.link;
    link.textContent = "Show it";
    box.append(link);
  }
  return box;
}

function color(colors, name) {
  const parts = colors[name];
  return Array.isArray(parts) && parts.length === 3 ? `rgb(${parts.map(Number).join(",")})` : CLASS_COLOR;
}

async function below(map, data) {
  if (data.tiles) {
    const by = document.createElement("span");
    by.textContent = data.tilesBy ?? "";
    L.tileLayer(data.tiles, { maxZoom: 20, attribution: by.innerHTML }).addTo(map);
    return;
  }
  map.createPane("land").style.zIndex = 150;
  const land = await geojson(data.land);
  L.geoJSON(land, { pane: "land", interactive: false, style: { className: "land" } }).addTo(map);
}

// A town is a speck on the map of a country: a dot of fixed size stands where it is.
function mark(shape, map) {
  if (!shape.getBounds) return;
  const dot = L.circleMarker(shape.getBounds().getCenter(), { ...OUTLINE, radius: 7, fillOpacity: 0.5 }).addTo(map);
  dot.bindPopup(() => popup(shape.feature?.properties));
}

async function draw(element) {
  const data = element.dataset;
  const map = L.map(element, { worldCopyJump: true, attributionControl: Boolean(data.tiles), zoomSnap: 0.5 });
  map.attributionControl?.setPrefix(false);
  map.setView([20, 0], 1.5);
  L.control.scale({ imperial: false }).addTo(map);
  const colors = JSON.parse(data.colors ?? "{}");
  let bounds = null;
  const nearest = data.footprint && !data.tiles ? 6 : 19; // outlines of the land say nothing of a town: show the region
  const fit = (box) => {
    if (!box?.isValid()) return;
    bounds = bounds ? bounds.extend(box) : box;
    map.fitBounds(bounds, { padding: [24, 24], maxZoom: nearest, animate: false });
  };
  if (data.bbox) {
    const [west, south, east, north] = data.bbox.split(",").map(Number);
    const box = L.latLngBounds([south, west], [north, east]);
    L.rectangle(box, { ...OUTLINE, fill: false, dashArray: "4 4", interactive: false }).addTo(map);
    if (data.overlay) L.imageOverlay(data.overlay, box, { opacity: 0.8, alt: "The classes" }).addTo(map);
    fit(box);
  }
  const parts = [below(map, data)];
  for (const [address, style] of [[data.footprint, () => OUTLINE], [data.features, (f) => ({ color: color(colors, f.properties?.Class), weight: 1.5, fillOpacity: 0.35 })]]) {
    if (!address) continue;
    parts.push(geojson(address).then((found) => {
      const layer = L.geoJSON(found, {
        style,
        pointToLayer: (feature, place) => L.circleMarker(place, { ...style(feature), radius: 5 }),
        onEachFeature: (feature, shape) => shape.bindPopup(() => popup(feature.properties)),
      }).addTo(map);
      fit(layer.getBounds());
      if (address === data.footprint) layer.eachLayer((shape) => mark(shape, map));
    }));
  }
  const done = await Promise.allSettled(parts);
  element.dataset.drawn = done.every((part) => part.status === "fulfilled") ? "yes" : "partly";
}

for (const element of document.querySelectorAll("[data-map]")) draw(element);
