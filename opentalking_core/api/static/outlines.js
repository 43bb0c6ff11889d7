// Outlines of mouth and face over a picture. Manifests are written by anybody: what is not of the right shape is not drawn.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Draw what the metadata of a picture knows of mouth and face.
 * svg: the element over the picture, with a viewBox of 1 x 1.
 * metadata: of a manifest, or of one frame.
 * Returns {mouth, any}: whether there is an outline of the mouth, and whether there is anything.
 */
export function drawOutlines(svg, metadata) {
  const animation = metadata?.animation ?? {};
  const shapes = [];
  if (isBox(metadata?.face_box)) {
    const [left, top, right, bottom] = metadata.face_box;
    shapes.push(polygon([[left, top], [right, top], [right, bottom], [left, bottom]], "face"));
  }
  const mouth = isOutline(animation.outer_lip);
  if (mouth) shapes.push(polygon(animation.outer_lip, "outer-lip"));
  if (mouth && isOutline(animation.inner_mouth)) shapes.push(polygon(animation.inner_mouth, "inner-mouth"));
  svg.replaceChildren(...shapes);
  return { mouth, any: shapes.length > 0 };
}

function polygon(points, className) {
  const shape = document.createElementNS(SVG, "polygon");
  shape.setAttribute("points", points.map(([x, y]) => `${x},${y}`).join(" "));
  shape.setAttribute("class", className);
  return shape;
}

function isOutline(points) {
  return Array.isArray(points) && points.length >= 3 && points.every((point) => isNumbers(point, 2));
}

function isBox(box) {
  return isNumbers(box, 4);
}

function isNumbers(values, length) {
  return Array.isArray(values) && values.length === length && values.every(Number.isFinite);
}
