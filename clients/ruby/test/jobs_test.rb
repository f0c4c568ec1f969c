# frozen_string_literal: true

# Jobs of ActiveJob and Sidekiq have the context of the code that enqueues them.

require_relative 'active_record_test'
require 'rbconfig'
require 'bemi/active_job'
require 'sidekiq/testing'
require 'bemi/sidekiq'

ActiveJob::Base.logger = nil
Sidekiq.logger.level = Logger::FATAL

class AddJob < ActiveJob::Base
  def perform(task)
    Todo.create!(task: task)
  end
end

class NestedJob < ActiveJob::Base
  def perform(task)
    Bemi.merge_context({ job: 'nested' })
    AddJob.perform_later("#{task} inner")
    Todo.create!(task: task)
  end
end

class RetriedJob < ActiveJob::Base
  retry_on ZeroDivisionError, wait: 0, attempts: 3

  def perform(task)
    Bemi.merge_context({ attempt: executions })
    raise ZeroDivisionError if executions < 2

    Todo.create!(task: task)
  end
end

class FailedJob < ActiveJob::Base
  def perform
    Bemi.merge_context({ b: 2 })
    raise ZeroDivisionError
  end
end

class SidekiqJob
  include Sidekiq::Worker

  def perform(task)
    Todo.create!(task: task)
  end
end

class JobsTest < Minitest::Test
  PREPARED = true
  include ActiveRecordStack
  # Only the connection is needed.
  Stack.instance_methods.grep(/\Atest_/).each { |name| undef_method(name) }

  def setup
    super
    connect(false)
  end

  def teardown
    ActiveRecord::Base.connection_pool.release_connection
  end

  # What a queue stores is plain JSON, and read in another thread.
  def through_queue
    queue = []
    adapter = ActiveJob::QueueAdapters::TestAdapter.new
    ActiveJob::Base.queue_adapter = adapter
    yield
    until adapter.enqueued_jobs.empty?
      data = JSON.parse(JSON.generate(adapter.enqueued_jobs.shift.transform_keys(&:to_s).slice(*JOB_KEYS)))
      Thread.new { ActiveRecord::Base.connection_pool.with_connection { ActiveJob::Base.execute(data) } }.join
    end
    queue
  end

  JOB_KEYS = %w[job_class job_id provider_job_id queue_name priority arguments executions exception_executions locale timezone enqueued_at
                bemi_context].freeze

  def test_active_job
    through_queue do
      3.times { |i| Bemi.with_context({ i: i }) { AddJob.perform_later("active #{i}") } }
      AddJob.perform_later('active none')
      Bemi.with_context({ a: 1 }) do
        NestedJob.perform_later('active nested')
        RetriedJob.perform_later('active retried')
        AddJob.perform_now('active now')
      end
    end
    expected = { 'active 0' => { 'i' => 0 }, 'active 1' => { 'i' => 1 }, 'active 2' => { 'i' => 2 }, 'active none' => {}, 'active now' => { 'a' => 1 },
                 'active nested' => { 'a' => 1, 'job' => 'nested' }, 'active nested inner' => { 'a' => 1, 'job' => 'nested' },
                 'active retried' => { 'a' => 1, 'attempt' => 2 } }
    assert_equal(expected, Database.marked('active').to_h)
    assert_nil(Bemi.current_context)
    Stack.passed('ActiveJob', ActiveJob.version.to_s, 'jobs')
  end

  def test_without_a_context_a_job_is_as_it_was
    refute_includes(AddJob.new('x').serialize.keys, 'bemi_context')
    job = {}
    Bemi::Sidekiq::Client.new.call('x', job, 'default') { nil }
    assert_equal({}, job)
  end

  def test_a_job_that_fails_leaves_nothing
    data = Bemi.with_context({ a: 1 }) { FailedJob.new.serialize }
    assert_raises(ZeroDivisionError) { ActiveJob::Base.execute(data) }
    assert_nil(Bemi.current_context)
    assert_raises(ZeroDivisionError) do
      Bemi::Sidekiq::Server.new.call(nil, { 'bemi_context' => '{"a":1}' }, 'default') { Bemi.merge_context({ b: 2 }) && raise(ZeroDivisionError) }
    end
    assert_nil(Bemi.current_context)
  end

  # In a process of Sidekiq, both are registered, and the server's is the first one.
  def test_sidekiq_server
    code = <<~RUBY
      require 'sidekiq/cli'
      config = Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration : Sidekiq
      Other = Class.new { def call(*) = yield }
      config.server_middleware { |chain| chain.add(Other) }
      require 'bemi/sidekiq'
      Bemi::Sidekiq.hook
      puts [config.client_middleware, config.server_middleware].map { |chain| chain.map(&:klass).join(' ') }
    RUBY
    clients, servers = IO.popen([RbConfig.ruby, '-e', code], &:readlines).map(&:split)
    assert_equal(['Bemi::Sidekiq::Client'], clients)
    # Sidekiq 7 has some of its own.
    assert_equal(['Bemi::Sidekiq::Server', 1, 'Other'], [servers.first, servers.count('Bemi::Sidekiq::Server'), servers.last])
  end

  def test_active_job_in_threads
    ActiveJob::Base.queue_adapter = ActiveJob::QueueAdapters::AsyncAdapter.new(max_threads: 4)
    20.times { |i| Bemi.with_context({ i: i }) { AddJob.perform_later("pool #{i}") } }
    ActiveJob::Base.queue_adapter.shutdown(wait: true)
    found = Database.marked('pool')
    assert_equal(20, found.size)
    found.each { |task, context| assert_equal({ 'i' => task.split.last.to_i }, context) }
  end

  def test_sidekiq
    Sidekiq::Testing.fake!
    Bemi::Sidekiq.hook
    # Outside of a server, its middleware is that of the tests.
    Sidekiq::Testing.server_middleware { |chain| chain.add(Bemi::Sidekiq::Server) }
    3.times { |i| Bemi.with_context({ i: i }) { SidekiqJob.perform_async("sidekiq #{i}") } }
    SidekiqJob.perform_async('sidekiq none')
    SidekiqJob.drain
    assert_equal({ 'sidekiq 0' => { 'i' => 0 }, 'sidekiq 1' => { 'i' => 1 }, 'sidekiq 2' => { 'i' => 2 }, 'sidekiq none' => {} },
                 Database.marked('sidekiq').to_h)
    Stack.passed('Sidekiq', Sidekiq::VERSION, 'jobs')
  end

  # Sidekiq enqueues it once more from a thread of its own, or from within another job.
  def test_sidekiq_retry_keeps_the_context
    job = {}
    Bemi.with_context({ a: 1 }) { Bemi::Sidekiq::Client.new.call('x', job, 'default') { nil } }
    Bemi::Sidekiq::Client.new.call('x', job, 'default') { nil }
    Bemi.with_context({ b: 2 }) { Bemi::Sidekiq::Client.new.call('x', job, 'default') { nil } }
    Bemi::Sidekiq::Server.new.call(nil, job, 'default') { assert_equal({ 'a' => 1 }, Bemi.current_context) }
    assert_nil(Bemi.current_context)
  end
end
