// The objects of the dashboard in the database are made, or brought up to date, by the first role that may, and looked at before each use.

import { createObjects, objectsState } from '../queries/objects.js';

// They are not there, or are those of an older dashboard, and the role may not mend that.
export class ObjectsMissing extends Error {
  statusCode = 503;
  command = 'npx bemi-dashboard --create-access-log postgres://OWNER_OF_BEMI@HOST/DATABASE';

  constructor({ isOld = false } = {}) {
    super(`the objects of the dashboard ${isOld ? 'are those of an older one' : 'do not exist'}`);
    this.isOld = isOld;
    this.kind = isOld ? 'access_log_old' : 'access_log';
  }
}

const opened = new WeakMap();

// For each Database, once. False if bemi is not installed there. That and a failure are not kept.
export async function openObjects(database) {
  if (!opened.has(database)) opened.set(database, open(database));
  let isOpen;
  try {
    isOpen = await opened.get(database);
  } finally {
    if (!isOpen) opened.delete(database);
  }
  return isOpen;
}

async function open(database) {
  const state = await database.read(objectsState);
  if (!state) return false;
  if (state.exists) return true;
  if (!state.mayCreate) throw new ObjectsMissing(state);
  await database.write(createObjects);
  return true;
}

// Calls work() in a transaction of the Database, if the objects are there at this moment. They may have been dropped, and others be in their place.
export async function withObjects(database, client, work) {
  const state = await objectsState(client);
  if (state?.exists) return work();
  // The next request opens them again.
  opened.delete(database);
  throw new ObjectsMissing(state);
}
