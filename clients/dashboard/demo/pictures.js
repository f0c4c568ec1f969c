// Takes the pictures of the documents: make dashboard-pictures.
//
// Each picture has one line here: its name, the address of the page, and what to do before it is taken. All are taken in light, some also
// in dark, and 320 pixels wide. The page of accounts is another dashboard, on the same history.

import { writeFile, mkdir, readdir, rm } from 'node:fs/promises';
import { hasBrowser, openBrowser } from '../test/browser/browser.js';

const openFirst = async page => {
  await page.locator('a.line').first().click();
  await page.locator('.panel-content').waitFor();
};

const openComplaint = async (page, { shop }) => {
  await page.locator('a.line', { hasText: `#${shop.complaint}` }).first().click();
  await page.locator('.panel-content').waitFor();
};

const openThen = name => async page => {
  await openFirst(page);
  await page.locator('.panel-content').getByRole('link', { name }).click();
  await page.waitForURL(/\/(?:past|revert)\?/);
};

const compare = async page => {
  await openThen('Table at this moment')(page);
  await page.getByRole('link', { name: 'What is different now' }).click();
  await page.waitForURL(/compare=now/);
};

const openSheet = link => async page => {
  await page.locator(link).first().click();
  await page.locator('article.sheet').waitFor();
};

const complete = async page => {
  await page.locator('#q').focus();
  await page.keyboard.press('End');
  await page.keyboard.type(' user:');
  await page.locator('#completions li').nth(3).waitFor();
  await page.keyboard.press('ArrowDown');
};

const takeBack = async (page, stage) => {
  await openThen('Take back…')(page);
  await page.getByLabel('Reason').fill('the customer has not asked for it');
  await page.getByLabel(/^To confirm/).fill(`order ${stage.shop.complaint}`);
  await page.getByRole('button', { name: 'Take back 1 row' }).click();
  await page.waitForURL(/\/revert\/done/);
};

const connect = async (page, { source }) => {
  for (const [name, value] of Object.entries(source.form)) await page.locator(`[name=${name}]`).fill(String(value));
  await page.locator('[name=sslmode]').selectOption('disable');
  await page.getByRole('button', { name: 'Check' }).click();
  await page.locator('.check.bad').first().waitFor();
};

const logIn = async (page, { people }) => {
  await page.getByLabel('Role').fill(people.user);
  await page.getByLabel('Password').fill(people.password);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('button', { name: 'Log out' }).waitFor();
};

const makeLink = async (page, stage) => {
  await logIn(page, stage);
  await page.getByLabel('Context').fill('userId:7');
  await page.getByLabel('For whom').fill('Grace Hall');
  await page.getByRole('button', { name: 'Make the link' }).click();
  stage.link = await page.locator('#link').innerText();
};

const openThe = name => async page => {
  await page.getByRole('link', { name }).first().click();
  await page.locator('#plan').waitFor();
};

const openLink = async (page, stage) => {
  await page.goto(stage.link);
  await page.locator('a.line').first().click();
  await page.locator('.panel-content').waitFor();
};

const order = ({ shop }) => `/changes?q=table:order+key:${shop.complaint}`;
const accounts = path => ({ people }) => `${people.url}${path}`;

const pictures = [
  ['changes', () => '/changes', openComplaint, 'dark narrow'],
  ['search', () => '/changes?q=table:order+endpoint:/cart*+since:2d', complete],
  ['search-sql', order, page => page.getByRole('button', { name: 'SQL' }).click()],
  ['change', () => '/changes?q=table:product+op:update', async page => {
    await openFirst(page);
    await openSheet('.actions a[href^="/change/"]')(page);
  }, 'narrow'],
  ['row', ({ shop }) => `/row/public/order/${shop.complaint}`, undefined, 'dark narrow'],
  ['rows', () => '/rows'],
  ['request', () => '/requests?q=endpoint:/cart/checkout', openSheet('a.request'), 'narrow'],
  ['requests', () => '/requests'],
  ['past', order, openThen('Table at this moment')],
  ['past-compared', order, compare],
  ['past-gap', () => '/past?table=public.product&at=70h'],
  ['trust', () => '/changes', page => page.locator('.trust summary').first().click()],
  ['take-back', order, openThen('Take back…'), 'narrow'],
  ['take-back-conflicts', () => '/revert?q=job:nightly-prices+run:1187', undefined, 'dark'],
  ['take-back-done', order, takeBack],
  ['sources', () => '/sources'],
  ['source', () => '/sources/named/main', page => page.locator('.chart canvas').waitFor(), 'dark narrow'],
  ['source-drop', () => '/sources/named/main/drop'],
  ['source-form', () => '/sources/connect'],
  ['source-checks', () => '/sources/connect', connect],
  ['tables', () => '/tables'],
  ['table', () => '/tables/public/customer'],
  ['table-plan', () => '/tables/public/customer/plan?do=track&value.phone=redact&value.email=redact_hash'],
  ['login', accounts('/changes')],
  ['links', accounts('/links'), makeLink],
  // Before the browser opens the link: from then on, it is the customer's.
  ['link-end', accounts('/links'), openThe('End the link for Grace Hall')],
  ['link', accounts('/changes'), openLink],
  ['export', order, async page => {
    await page.locator('.tools').getByRole('link', { name: 'Export' }).click();
    await page.waitForURL(/\/export/);
  }],
  ['access-log', () => '/access-log', async page => {
    await page.request.get(new URL('/export/changes.csv?q=user:12+since:1d', page.url()).href);
    await page.reload();
  }],
];

const KINDS = {
  light: { suffix: '', colorScheme: 'light', width: 1280, height: 800 },
  dark: { suffix: '-dark', colorScheme: 'dark', width: 1280, height: 800 },
  narrow: { suffix: '-narrow', colorScheme: 'light', width: 320, height: 640 },
};

// stage: { url, shop, people: { url, user, password }, source: { form } }. What was in the folder is replaced.
export async function takePictures({ enter, folder, ...stage }) {
  if (!hasBrowser) throw new Error('there is no Chromium: apt-get install chromium-headless-shell');
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) await rm(`${folder}/${name}`);
  const { browser, page, faults } = await openBrowser();
  await page.goto(enter);
  for (const [name, address, act, more = ''] of pictures) {
    for (const kind of ['light', ...more.split(' ').filter(Boolean)]) await takePicture(page, stage, { name, address, act, ...KINDS[kind], folder });
  }
  await browser.close();
  // Who has not logged in yet gets the page to log in with status 401.
  const unexpected = faults.filter(fault => !/status of 401/.test(fault));
  if (unexpected.length > 0) throw new Error(unexpected.join('\n'));
}

async function takePicture(page, stage, { name, address, act, suffix, colorScheme, width, height, folder }) {
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  await page.setViewportSize({ width, height });
  await page.goto(new URL(address(stage), stage.url).href);
  await act?.(page, stage);
  await page.locator('body.bare, .dot').first().waitFor();
  await page.mouse.move(0, 0);
  await page.setViewportSize({ width, height: await page.evaluate(heightNeeded, { least: 460, most: height }) });
  await page.evaluate('scrollTo(0, 0); document.fonts.ready');
  await writeFile(`${folder}/${name}${suffix}.webp`, await webp(page));
}

// The page is as tall as its content, so that a picture has no empty half.
function heightNeeded({ least, most }) {
  const bottoms = [...document.querySelectorAll('main *, dialog[open] *')].filter(element => element.childElementCount === 0)
    .map(element => element.getBoundingClientRect().bottom);
  return Math.min(most, Math.max(least, Math.ceil(Math.max(...bottoms)) + 40));
}

// Playwright itself has only PNG and JPEG.
async function webp(page) {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: 72 });
  await session.detach();
  return Buffer.from(data, 'base64');
}
