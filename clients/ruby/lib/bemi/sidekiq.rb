# frozen_string_literal: true

require 'sidekiq'
require_relative '../bemi'

module Bemi
  # Hooks Sidekiq, and queues with the same middleware: a job has the context of the code that enqueues it. It is stored with the
  # job.
  module Sidekiq
    KEY = 'bemi_context'

    # Where jobs are enqueued, which can be a worker.
    class Client
      def call(_worker, job, _queue, _pool = nil)
        text = Bemi.current_text
        # A job that is retried, or was scheduled, comes here once more, from a thread of Sidekiq without a context.
        job[KEY] = text if text && !job.key?(KEY)
        yield
      end
    end

    # Where jobs are performed.
    class Server
      def call(_worker, job, _queue, &block)
        Bemi.with_text(job[KEY], &block)
      end
    end

    # Once is enough, a second time does nothing.
    def self.hook
      ::Sidekiq.configure_client { |config| add_client(config) }
      ::Sidekiq.configure_server do |config|
        add_client(config)
        # The first one, because others may write, too.
        config.server_middleware { |chain| chain.prepend(Server) }
      end
    end

    def self.add_client(config)
      config.client_middleware { |chain| chain.add(Client) }
    end
    private_class_method :add_client

    hook
  end
end
