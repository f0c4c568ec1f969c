# frozen_string_literal: true

require 'active_record'
require 'active_record/connection_adapters/postgresql_adapter'
require_relative '../bemi'

module Bemi
  # Hooks ActiveRecord: the queries of its connections to PostgreSQL get the context of the code that runs them, as a comment
  # behind the text.
  #
  # From Rails 7 on, texts pass through ActiveRecord.query_transformers before they are sent and before they are prepared. In
  # Rails 6, the methods that send a text are hooked.
  #
  # ActiveRecord prepares what it reads by Arel, and not what it writes. If a statement that changes rows is to be prepared all
  # the same, which an application can ask for with find_by_sql, it is sent without preparation: each context would make another
  # prepared statement, up to statement_limit, and displace the useful ones.
  module ActiveRecord
    # In query_transformers.
    module Transformer
      # Rails 7.0 passes only the text.
      def self.call(sql, connection = nil)
        return sql unless connection.nil? || connection.is_a?(::ActiveRecord::ConnectionAdapters::PostgreSQLAdapter)

        Bemi.add_context(sql)
      end
    end

    # Before the methods of the adapter of Rails 6.
    module Adapter
      def execute(sql, *arguments)
        super(Bemi.add_context(sql), *arguments)
      end

      private

      def execute_and_clear(sql, *arguments, **options, &block)
        super(Bemi.add_context(sql), *arguments, **options, &block)
      end
    end

    # This method sends texts without the transformers, in each version of Rails.
    module RawQuery
      def query(sql, *arguments, **options)
        super(Bemi.add_context(sql), *arguments, **options)
      end
    end

    # Which method decides on the preparation depends on the version of Rails.
    module Unprepared
      private

      def execute_and_clear(sql, *arguments, prepare: false, **options, &block)
        super(sql, *arguments, prepare: prepare && !Query.context?(sql), **options, &block)
      end

      def perform_query(connection, sql, *arguments, prepare:, **options)
        super(connection, sql, *arguments, prepare: prepare && !Query.context?(sql), **options)
      end
    end

    # Hooks all connections to PostgreSQL. A second time only puts the transformer behind those that were added since.
    def self.hook
      adapter = ::ActiveRecord::ConnectionAdapters::PostgreSQLAdapter
      adapter.prepend(Unprepared, RawQuery)
      if ::ActiveRecord.respond_to?(:query_transformers)
        # The last one, so that no other one adds a statement behind the context.
        ::ActiveRecord.query_transformers.delete(Transformer)
        ::ActiveRecord.query_transformers.push(Transformer)
      else
        adapter.prepend(Adapter)
      end
    end

    hook
  end
end
