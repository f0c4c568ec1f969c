# frozen_string_literal: true

# Passes the application's context to bemi, the PostgreSQL extension that keeps the history of every row.

require_relative 'bemi/version'
require_relative 'bemi/storage'
require_relative 'bemi/text'
require_relative 'bemi/query'
require_relative 'bemi/middleware'
require_relative 'bemi/railtie' if defined?(Rails::Railtie)

module Bemi
  class << self
    # What receives the warning of a context that cannot be sent. Rails sets its own.
    attr_writer :logger

    def logger
      @logger ||= begin
        require 'logger'
        Logger.new($stderr)
      end
    end

    # The context of a block. After that, the former context is in force again, whatever was set within.
    def with_context(context, &block)
      Storage.with(Text.of { context }, &block)
    end

    # Sets the context from here on, in this thread (or fiber), until the end of the innermost with_context. It replaces the
    # current context; nil removes it. Prefer with_context for work that has an end.
    def set_context(context)
      Storage.text = Text.of { context }
    end

    # The same, but keeps those keys of the context in force that this one does not have.
    def merge_context(context)
      Storage.text = Text.of { (current_context || {}).merge((context || {}).to_h.transform_keys(&:to_s)) }
    end

    # The context in force as it will be stored, nil if there is none.
    def current_context
      text = Storage.text
      text && JSON.parse(text, max_nesting: false)
    end

    # The text of the context in force, nil if there is none.
    def current_text
      Storage.text
    end

    # The context of a block by its text. For what carries contexts, such as queues of jobs. It is written again, because who can
    # write into a queue must not be able to write into the text of a statement.
    def with_text(text, &block)
      Storage.with(text.nil? ? nil : Text.of { JSON.parse(text, max_nesting: Text::MAX_DEPTH) }, &block)
    end

    # The text of a query, with the context in force behind each statement that changes rows. For drivers that bemi does not
    # hook.
    def add_context(sql)
      Query.add_context(sql)
    end
  end
end
