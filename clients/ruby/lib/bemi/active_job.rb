# frozen_string_literal: true

require 'active_job'
require_relative '../bemi'

module Bemi
  # Hooks ActiveJob: a job has the context of the code that enqueues it, with every backend. It is stored with the job, and also
  # holds after a retry.
  module ActiveJob
    KEY = 'bemi_context'

    def serialize
      data = super
      text = Bemi.current_text
      text.nil? ? data : data.merge(KEY => text)
    end

    def deserialize(data)
      super
      @bemi_job = data
    end

    # Errors are handled in it, too, and so a retry is enqueued with the context. A job that has not been in a queue has the
    # context in force.
    def perform_now
      @bemi_job ? Bemi.with_text(@bemi_job[KEY]) { super } : super
    end

    ::ActiveJob::Base.include(self)
  end
end
