/**
 * The part of the Reflect metadata proposal that tsyringe, which @peculiar/x509 registers its algorithms with, needs in order to load.
 * x509 asks its users for such a polyfill; these four functions are all that is called. Import this before @peculiar/x509.
 */
type Key = string | symbol | undefined;

const metadata = new WeakMap<object, Map<Key, Map<unknown, unknown>>>();

function ofTarget(target: object, property: Key): Map<unknown, unknown> {
  let properties = metadata.get(target);
  if (properties === undefined) {
    properties = new Map();
    metadata.set(target, properties);
  }
  let values = properties.get(property);
  if (values === undefined) {
    values = new Map();
    properties.set(property, values);
  }
  return values;
}

function getOwnMetadata(name: unknown, target: object, property?: Key): unknown {
  return metadata.get(target)?.get(property)?.get(name);
}

/** Looks along the prototypes as well. */
function getMetadata(name: unknown, target: object, property?: Key): unknown {
  for (let at: object | null = target; at !== null; at = Object.getPrototypeOf(at)) {
    if (metadata.get(at)?.get(property)?.has(name)) return getOwnMetadata(name, at, property);
  }
  return undefined;
}

function defineMetadata(name: unknown, value: unknown, target: object, property?: Key): void {
  ofTarget(target, property).set(name, value);
}

if (!("getMetadata" in Reflect)) {
  Object.assign(Reflect, {
    getMetadata,
    getOwnMetadata,
    defineMetadata,
    hasOwnMetadata: (name: unknown, target: object, property?: Key) => metadata.get(target)?.get(property)?.has(name) ?? false,
    metadata: (name: unknown, value: unknown) => (target: object, property?: Key) => defineMetadata(name, value, target, property),
  });
}
