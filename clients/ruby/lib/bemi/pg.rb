# frozen_string_literal: true

require 'pg'
require_relative '../bemi'

module Bemi
  # Hooks connections of the gem pg: connection.extend(Bemi::PG). The texts that they send get the context of the code that sends
  # them. Prepared statements have none: a comment would be that of the preparation.
  module PG
    %i[exec async_exec sync_exec query exec_params async_exec_params sync_exec_params async_query send_query send_query_params].each do |name|
      next unless ::PG::Connection.method_defined?(name)

      define_method(name) do |sql, *arguments, &block|
        super(Bemi.add_context(sql), *arguments, &block)
      end
    end
  end
end
