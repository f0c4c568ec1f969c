// The chart of changes a minute.

import uPlot from '/vendor/uplot.js';

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw() {
  const figure = document.getElementById('rates');
  const chart = figure?.querySelector('.chart');
  if (!chart) return;
  const points = JSON.parse(figure.dataset.points);
  const axis = { stroke: colour('--dim'), grid: { stroke: colour('--line'), width: 1 }, ticks: { show: false }, font: '11px Inter, sans-serif' };
  chart.replaceChildren();
  new uPlot({
    width: chart.clientWidth, height: 140, legend: { show: false }, cursor: { show: false },
    scales: { y: { range: (plot, least, most) => [0, Math.max(4, most * 1.1)] } },
    axes: [{ ...axis, size: 26, values: (plot, times) => times.map(time => new Date(time * 1000).toTimeString().slice(0, 5)) }, { ...axis, size: 52, values: (plot, counts) => counts.map(count => (Number.isInteger(count) ? String(count).replace(/\B(?=(\d{3})+$)/g, ' ') : '')) }],
    series: [{}, { stroke: colour('--accent'), fill: colour('--accent'), width: 0, paths: uPlot.paths.bars({ size: [0.8, 24] }), points: { show: false } }],
  }, [points.map(([time]) => time), points.map(([, count]) => count)], chart);
}

draw();
document.addEventListener('htmx:afterSettle', event => { if (event.target.id === 'rates' || event.detail.elt?.id === 'rates') draw(); });
addEventListener('resize', draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
