/** Hooks a copy of postgres.js, and returns it. A second time does nothing. */
export function hook<Driver extends (...args: any[]) => unknown>(postgres: Driver): Driver;
