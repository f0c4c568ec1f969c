/**
 * Hooks a copy of node-postgres, or a driver with the same Client and Pool. Importing 'bemi/pg' hooks all copies that it
 * finds, so call this only for one that it cannot find, such as a copy in a bundle. A second time does nothing.
 */
export function hook<Driver extends object>(pg: Driver): Driver;
