// The page of a row: the slider moves through the versions, and the points follow.

const slider = document.getElementById('slider');
const output = document.getElementById('slider-text');
const steps = slider ? JSON.parse(slider.dataset.steps) : [];

// The browser fetches a version when the slider has rested for a moment.
const REST = 80;
let timer;

function showStep({ id, text }) {
  slider.setAttribute('aria-valuetext', text);
  output.value = text;
  for (const point of document.querySelectorAll('.timeline a')) {
    if (new URL(point.href).searchParams.get('version') === id) point.setAttribute('aria-current', 'true');
    else point.removeAttribute('aria-current');
  }
}

async function load({ address }) {
  await htmx.ajax('GET', address, { target: '#version', swap: 'innerHTML' });
  history.replaceState({}, '', address);
}

if (slider) {
  slider.addEventListener('input', () => {
    const step = steps[slider.value - 1];
    showStep(step);
    clearTimeout(timer);
    timer = setTimeout(load, REST, step);
  });
  // A point was chosen.
  document.body.addEventListener('htmx:afterSettle', () => {
    const id = document.querySelector('#version [data-version]')?.dataset.version;
    const place = steps.findIndex(step => step.id === id);
    // While the slider moves on, the answer is older than what it shows.
    if (place < 0 || document.activeElement === slider) return;
    slider.value = place + 1;
    showStep(steps[place]);
  });
}
