# frozen_string_literal: true

module Bemi
  # Where the text of the context in force is. It is never inherited by a thread: a thread of a pool that is started within
  # one request works for others, too.
  #
  # - With Rails 7, Rails decides whether a thread or a fiber is one execution (config.active_support.isolation_level).
  # - Otherwise it belongs to the fiber. From Ruby 3.2 on, a new fiber of the same thread inherits it, so it is also in an
  #   Enumerator's next and in tasks of a fiber scheduler.
  module Storage
    KEY = :bemi_context

    class << self
      # The text of a block. After that, the former text is there again, whatever was set within.
      def with(text)
        former = self.text
        self.text = text
        begin
          yield
        ensure
          self.text = former
        end
      end

      def text
        if defined?(ActiveSupport::IsolatedExecutionState)
          ActiveSupport::IsolatedExecutionState[KEY]
        elsif Fiber.respond_to?(:[])
          thread, text = Fiber[KEY]
          text if thread.equal?(Thread.current)
        else
          Thread.current[KEY] # Ruby means the fiber
        end
      end

      def text=(text)
        if defined?(ActiveSupport::IsolatedExecutionState)
          ActiveSupport::IsolatedExecutionState[KEY] = text
        elsif Fiber.respond_to?(:[])
          Fiber[KEY] = text && [Thread.current, text].freeze
        else
          Thread.current[KEY] = text
        end
      end
    end
  end
end
