// JSON Merge Patch, as RFC 7396 defines it; changes the target in place where it is an object.

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

export function merged(target, patch) {
  if (!isObject(patch)) return patch;
  const result = isObject(target) ? target : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else result[name] = merged(result[name], value);
  }
  return result;
}
