// Which keys of a context mean what. Applications choose the names of keys themselves, so these are the common ones. The first
// one that a context has counts.

export const meanings = {
  user: ['userId', 'user_id', 'userID', 'user', 'actorId', 'actor_id', 'actor', 'adminId', 'admin', 'accountId', 'account', 'email'],
  job: ['job', 'jobName', 'job_name', 'worker', 'task', 'script', 'cron'],
  endpoint: ['endpoint', 'path', 'route', 'url', 'uri', 'resolver', 'command'],
  method: ['method', 'httpMethod', 'http_method'],
  request: ['requestId', 'request_id', 'traceId', 'trace_id', 'correlationId', 'correlation_id'],
  run: ['run', 'runId', 'run_id', 'jobId', 'job_id'],
  deploy: ['deploy', 'deployment', 'release', 'version'],
};

// The first of these keys that the context has, with its value: [key, value].
export function find(context, meaning) {
  for (const key of meanings[meaning]) {
    const value = context[key];
    if (value !== undefined && value !== null && value !== '') return [key, value];
  }
  return undefined;
}
